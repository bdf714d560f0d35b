"""ABX error by fastabx (Poli, Chemla and Dupoux 2025, arXiv 2505.02692), where it is installed.

fastabx comes from the people of ZeroSpeech and needs Python 3.12. Where it is missing, abx.py
computes the same figures, and tests hold the two against each other. They score the same triples
as long as nothing is drawn at random. Of larger groups, fastabx draws anew in each cell of triples,
and abx.py once in each group.
"""

import math
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from pipeline.evaluation.abx_items import Item, find_segments

# The conditions of ZeroSpeech 2021, and in which order their cells are averaged.
CONTEXT = ["prev-phone", "next-phone"]
LEVELS = [tuple(CONTEXT), "speaker"]


def fastabx_version() -> str | None:
    """The version that is installed; None if it is not."""
    try:
        return version("fastabx")
    except PackageNotFoundError:
        return None


def fastabx_errors(
    items: list[Item],
    codes: dict[str, np.ndarray],
    centroids: np.ndarray,
    max_group: int | None = 10,
    max_speakers: int | None = 5,
    seed: int = 0,
) -> dict[str, float | int]:
    """As abx_errors, and on a GPU if this process sees one.

    max_group: at most this many segments of A, of B and of X in a cell of triples. max_speakers: of
    X, for each of A and B. None: all.
    """
    import polars
    import torch
    from fastabx import Dataset, InMemoryAccessor, Score, Subsampler, Task

    found = find_segments(items, codes)
    errors: dict[str, float | int] = {"abx_within": math.nan, "abx_across": math.nan}
    if not found.items:
        return {**errors, **found.counts()}
    labels = polars.DataFrame(
        {
            "phone": [item.phone for item in found.items],
            "prev-phone": [item.context[0] for item in found.items],
            "next-phone": [item.context[1] for item in found.items],
            "speaker": [item.speaker for item in found.items],
        }
    )
    ends = np.cumsum([len(segment) for segment in found.codes]).tolist()
    places = dict(enumerate(zip([0, *ends[:-1]], ends)))
    frames = centroids.astype(np.float32)[np.concatenate(found.codes)]
    dataset = Dataset(labels, InMemoryAccessor(places, torch.from_numpy(frames)))
    subsampler = Subsampler(max_group, max_speakers, seed)
    for name, by, across in (
        ("abx_within", [*CONTEXT, "speaker"], None),
        ("abx_across", CONTEXT, ["speaker"]),
    ):
        task = Task(dataset, on="phone", by=by, across=across, subsampler=subsampler)
        if len(task):
            errors[name] = float(Score(task, "angular").collapse(levels=LEVELS))
    return {**errors, **found.counts()}
