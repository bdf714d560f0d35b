"""What others have published of SALMon, to compare a model with: only on SALMon's own recordings.

The figures are those of the benchmark's own leaderboard, github.com/slp-rl/salmon, with the paper
"A Suite for Acoustic Language Model Evaluation" (arXiv 2409.07437): shares of 200 pairs each. Of
people it is the share who chose rightly.
"""

TASKS = (
    "sentiment_consistency",
    "speaker_consistency",
    "gender_consistency",
    "bg_domain_consistency",
    "bg_all_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "bg_alignment",
)
SALMON = {
    "TWIST 7B": (0.615, 0.710, 0.700, 0.550, 0.605, 0.620, 0.515, 0.540),
    "pGSLM": (0.405, 0.825, 0.885, 0.575, 0.660, 0.535, 0.555, 0.530),
    "people": (0.972, 0.912, 0.986, 0.831, 0.887, 0.944, 0.933, 0.957),
}


def published_shares(task: str) -> dict[str, float]:
    """{system: share} of a task by its folder's name in SALMon; {} of any other."""
    name = task.rpartition("/")[2]
    if name not in TASKS:
        return {}
    return {system: shares[TASKS.index(name)] for system, shares in SALMON.items()}
