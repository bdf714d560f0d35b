"""The one codebook: K code vectors, and the nearest of them for each frame."""

import torch
from torch import Tensor

from tokenizer.encoder.linear import InferenceLinear

# Scores of (rows, K) are held for no more elements than this at a time: 64 MB of fp32.
SCORES_AT_A_TIME = 1 << 24


class Codebook:
    """Nearest-code lookup, by Euclidean distance ("l2") or by angle ("cosine", spherical k-means).

    The lookup is in fp32 whatever the encoder's precision: it decides the token. Ties go to the
    lowest code, as in FAISS.
    """

    def __init__(
        self,
        codes: Tensor,
        metric: str = "l2",
        device: torch.device | str = "cpu",
        projection: Tensor | None = None,
    ) -> None:
        """codes: (K, D) on any device. projection: (P, D), with "l2": near is what is near by it.

        Raises ValueError for another metric, and for a projection with "cosine".
        """
        if metric not in ("l2", "cosine"):
            raise ValueError(f"metric is {metric!r}; it is 'l2' or 'cosine'")
        if projection is not None and metric != "l2":
            raise ValueError("a projection goes with Euclidean distance alone")
        codes = codes.to(device=device, dtype=torch.float32)
        self.size = len(codes)
        self.bias = None
        if metric == "cosine":
            codes = torch.nn.functional.normalize(codes, dim=1)
        elif projection is None:
            # argmin |x - c|^2 = argmax x.c - |c|^2 / 2: one product with a bias.
            self.bias = -codes.square().sum(1) / 2
        else:
            # argmin |Px - Pc|^2 = argmax x.P'Pc - |Pc|^2 / 2: no more work than without.
            projection = projection.to(codes)
            projected = codes @ projection.T
            self.bias = -projected.square().sum(1) / 2
            codes = projected @ projection
        self.score = InferenceLinear(codes, self.bias)

    @torch.inference_mode()
    def nearest(self, features: Tensor) -> Tensor:
        """(N, D) features → (N,) int64 codes."""
        step = max(1, SCORES_AT_A_TIME // self.size)
        parts = [self.score(rows.float()).argmax(1) for rows in features.split(step)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
