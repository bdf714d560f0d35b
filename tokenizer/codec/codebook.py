"""The codebook: K code vectors, and the lookup of the nearest one for each frame."""

import torch
from torch import Tensor

from tokenizer.codec.shortlist import Shortlist
from tokenizer.encoder.linear import InferenceLinear
from tokenizer.errors import UsageError

# The lookup holds at most this many scores, rows times K, at a time: 64 MB of fp32, and 1 GB on a
# GPU.
SCORES_AT_A_TIME, SCORES_AT_A_TIME_ON_GPU = 1 << 24, 1 << 28
# On a GPU, codebooks of this size and width are looked up with a shortlist. fp32 products of 16,384
# codes of 1,024 dimensions would take as long there as all of the encoder in bf16.
SHORTLIST_CODES, SHORTLIST_WIDTH = 16_384, 128


class Codebook:
    """Nearest-code lookup by Euclidean distance ("l2") or by angle ("cosine", spherical k-means).

    The lookup decides the token, so it is in fp32 whatever the encoder's precision. Of equally near
    codes the lowest wins, as in FAISS. Binary codes need no product: see `is_binary`.
    """

    def __init__(
        self,
        codes: Tensor,
        metric: str = "l2",
        *,
        device: torch.device | str = "cpu",
        projection: Tensor | None = None,
        shortlist: bool | None = None,
    ) -> None:
        """codes: (K, D) on any device. projection: (P, D), only for "l2": the distance is between
        projected features and projected codes. shortlist: whether bf16 products choose the codes
        that fp32 decides between, which gives the same codes; None takes what is fastest.

        Raises UsageError for another metric, and for a projection with "cosine".
        """
        if metric not in ("l2", "cosine"):
            raise UsageError(
                "there is no such metric", "give 'l2' or 'cosine'", value=metric, argument="metric"
            )
        if projection is not None and metric != "l2":
            raise UsageError(
                "a projection goes with the metric 'l2' only", "give no projection with 'cosine'"
            )
        codes = codes.to(device=device, dtype=torch.float32)
        self.size = len(codes)
        self.place: Tensor | None = None
        self.shortlist: Shortlist | None = None
        if projection is None and is_binary(codes):
            self.place = _place_values(codes.shape[1], codes.device)
            return
        self.bias, middle = None, codes.mean(0)
        if metric == "cosine":
            codes, middle = torch.nn.functional.normalize(codes, dim=1), 0 * middle
        elif projection is None:
            # argmin |x - c|² = argmax x·c - |c|² / 2: one product with a bias.
            self.bias = -codes.square().sum(1) / 2
        else:
            # argmin |Px - Pc|² = argmax x·P'Pc - |Pc|² / 2: the same work as without a projection.
            projection = projection.to(codes)
            projected = codes @ projection.T
            self.bias = -projected.square().sum(1) / 2
            codes = projected @ projection
        self.score = InferenceLinear(codes, self.bias)
        if shortlist is None:
            large = self.size >= SHORTLIST_CODES and codes.shape[1] >= SHORTLIST_WIDTH
            shortlist = large and codes.is_cuda
        if shortlist:
            self.shortlist = Shortlist(codes, self.bias, middle)

    @torch.inference_mode()
    def nearest(self, features: Tensor) -> Tensor:
        """(N, D) features → (N,) int64 codes."""
        found = self.lookup(features)
        if self.shortlist is not None and bool((found < 0).any()):
            found = torch.where(found < 0, self._all_scores(features), found)
        return found

    @torch.inference_mode()
    def lookup(self, features: Tensor) -> Tensor:
        """(N, D) features → (N,) int64, as `nearest`, without waiting for the device.

        With a shortlist, -1 where it may lack the nearest code; `nearest` then takes all scores.
        """
        if self.shortlist is None:
            return self._all_scores(features)
        step = max(1, SCORES_AT_A_TIME_ON_GPU // self.size)
        return torch.cat([self.shortlist.nearest(rows.float()) for rows in features.split(step)])

    def _all_scores(self, features: Tensor) -> Tensor:
        if self.place is not None:
            return ((features > 0) * self.place).sum(1)
        most = SCORES_AT_A_TIME_ON_GPU if features.is_cuda else SCORES_AT_A_TIME
        step = max(1, most // self.size)
        return torch.cat([self.score(rows.float()).argmax(1) for rows in features.split(step)])


def is_binary(codes: Tensor) -> bool:
    """Whether (K, D) codes are the 2^D corners (±c, …) in binary order, highest bit first.

    The nearest corner has the signs of the features, by distance and by angle: bit d of the code is
    1 where feature d is over zero. At zero both are equally near, and 0 is the lower code.
    """
    size, bits = codes.shape
    if size != 1 << bits or not codes[0, 0] < 0:
        return False
    number = torch.arange(size, device=codes.device)[:, None]
    positive = (number & _place_values(bits, codes.device)) > 0
    corner = codes[0, 0].abs()
    return torch.equal(codes, torch.where(positive, corner, -corner))


def _place_values(bits: int, device: torch.device) -> Tensor:
    """(bits,) int64: what each bit of a code is worth, highest first."""
    return 1 << torch.arange(bits - 1, -1, -1, device=device)
