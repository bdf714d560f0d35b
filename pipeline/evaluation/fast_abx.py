"""ABX error by fastabx (Poli, Chemla and Dupoux 2025, arXiv 2505.02692), where it is installed.

fastabx comes from the people of ZeroSpeech and needs Python 3.12. Where it is missing, abx.py
computes the same figures, and tests hold the two against each other. They score the same triples
as long as nothing is drawn at random. Of larger groups, fastabx draws anew in each cell of triples,
and abx.py once in each group.
"""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.abx import AbxErrors
from pipeline.evaluation.abx_items import Item, find_segments
from pipeline.scores.bootstrap import ScoreInterval

if TYPE_CHECKING:
    import torch

# The conditions of ZeroSpeech 2021, and in which order their cells are averaged.
CONTEXT = ["prev-phone", "next-phone"]
LEVELS = [tuple(CONTEXT), "speaker"]
# Angles over π are rounded to multiples of this, so that sums of the same angles in another order
# are equal in fp32, and tie.
ANGLE_STEP = 2.0**-17


class _CodeDistance:
    """Angles between the centroids of codes, over π: 0 to 1, and of a code to itself exactly 0."""

    def __init__(self, centroids: np.ndarray, device: torch.device) -> None:
        import torch
        from torch.nn import functional

        given = torch.from_numpy(centroids.astype(np.float32)).to(device)
        self.unit = functional.normalize(given, dim=1)

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(N, T, 1) and (M, T', 1) codes → (N, M, T, T') angles."""
        codes, others = first.flatten().long(), second.flatten().long()
        angles = (self.unit[codes] @ self.unit[others].T).clamp(-1, 1).acos() / math.pi
        angles = (angles / ANGLE_STEP).round() * ANGLE_STEP
        angles[codes[:, None] == others[None]] = 0
        shape = (*first.shape[:2], *second.shape[:2])
        return angles.view(shape).transpose(1, 2)


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
    device: str = "auto",
) -> AbxErrors:
    """As abx_errors, with fastabx's cells, alignment and averages, and without intervals.

    max_group: at most this many segments of A, of B and of X in a cell of triples. max_speakers: of
    X, for each of A and B. None: all. device: "auto" is a GPU if this process sees one.
    """
    import polars
    import torch
    from fastabx import Dataset, EmptyTaskError, InMemoryAccessor, Score, Subsampler, Task

    found = find_segments(items, codes)
    nothing = ScoreInterval(None, None, None, count=0)
    errors = {"within": nothing, "across": nothing}
    if not found.items:
        return AbxErrors(**errors, counts=found.counts())
    labels = polars.DataFrame(
        {
            "phone": [item.phone for item in found.items],
            "prev-phone": [item.context[0] for item in found.items],
            "next-phone": [item.context[1] for item in found.items],
            "speaker": [item.speaker for item in found.items],
        }
    )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda" if on_gpu else "cpu")
    ends = np.cumsum([len(segment) for segment in found.codes]).tolist()
    spans = dict(enumerate(zip([0, *ends[:-1]], ends)))
    # Codes up to 16 million are whole numbers in fp32, which fastabx keeps frames in.
    frames = torch.from_numpy(np.concatenate(found.codes).astype(np.float32))[:, None]
    dataset = Dataset(labels, InMemoryAccessor(spans, frames, place))
    distance = _CodeDistance(centroids, place)
    subsampler = Subsampler(max_group, max_speakers, seed)
    for name, by, across in (
        ("within", [*CONTEXT, "speaker"], None),
        ("across", CONTEXT, ["speaker"]),
    ):
        try:
            task = Task(dataset, on="phone", by=by, across=across, subsampler=subsampler)
        except EmptyTaskError:
            continue
        value = Score(task, distance, progress=False).collapse(levels=LEVELS)
        errors[name] = ScoreInterval(value, None, None, count=len({i.key for i in found.items}))
    return AbxErrors(**errors, counts=found.counts())
