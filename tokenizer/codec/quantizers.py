"""Quantizers for distillation: latents → one code each, with straight-through gradients.

`LearnedCodebook` starts from the FAISS k-means centroids of the latents. Each code then follows an
exponential moving average (EMA) of the latents assigned to it (van den Oord et al. 2017, arXiv
1711.00937, appendix A.1). `BinarySpherical` takes the signs of a latent on the unit sphere (Zhao et
al. 2024, arXiv 2406.07548): its codes are the corners of a cube, and nothing is fitted.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

# A code is unused if it gets less than this share of the latents that an average code gets.
UNUSED_SHARE = 0.03
# Decay per batch of the moving averages.
EMA_DECAY = 0.99
# Unused codes are restarted from the latents of this many batches.
RECENT_BATCHES = 20
# A code's current vector counts this much in its average, so an unused code does not divide by 0.
SMOOTHING = 1e-3


class LearnedCodebook(nn.Module):
    """K codes, learned by exponential moving averages.

    codes: (K, D). sums: (K, D) and counts: (K,), the moving averages of the latents assigned to
    each code and of their number. latents: (n, D), those of recent batches.
    """

    codes: Tensor
    sums: Tensor
    counts: Tensor
    latents: Tensor

    def __init__(self, codes: Tensor, decay: float = EMA_DECAY) -> None:
        """codes: (K, D), FAISS's centroids. decay: of the moving averages, per batch."""
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", codes.float().clone())
        self.register_buffer("sums", codes.float().clone())
        self.register_buffer("counts", torch.ones(len(codes)))
        # A buffer, so that checkpoints hold it.
        self.register_buffer("latents", torch.zeros(0, codes.shape[1]), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) → quantised (..., D), tokens (...), and the commitment loss ().

        In training mode the moving averages are updated with this batch. The commitment loss is
        the mean squared distance from a latent to its code; its gradient reaches only the latents.
        """
        rows = latents.detach().flatten(0, -2).float()
        tokens = nearest(rows, self.codes)
        quantised = self.codes[tokens].view(latents.shape)
        if self.training:
            self._update(rows, tokens)
            self.latents = torch.cat([self.latents, rows])[-RECENT_BATCHES * len(rows) :]
        commitment_loss = F.mse_loss(latents.float(), quantised)
        tokens = tokens.view(latents.shape[:-1])
        return straight_through(latents, quantised), tokens, commitment_loss

    @torch.no_grad()
    def _update(self, rows: Tensor, tokens: Tensor) -> None:
        counts = torch.bincount(tokens, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, rows)
        if distributed.is_initialized():
            # Every process keeps the same codebook.
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        smoothed = self.sums + SMOOTHING * self.codes
        self.codes.copy_(smoothed / (self.counts + SMOOTHING)[:, None])

    def usage(self) -> dict[str, Tensor]:
        """Perplexity and active codes, over the last hundred batches or so."""
        return usage(self.counts)

    @torch.no_grad()
    def unused(self) -> Tensor:
        """(n,) int64: the codes that get less than UNUSED_SHARE of an average code's latents."""
        return (self.counts <= UNUSED_SHARE * self.counts.mean()).nonzero()[:, 0]

    def recent(self) -> Tensor:
        """(n, D): the latents of the last RECENT_BATCHES batches."""
        return self.latents

    @torch.no_grad()
    def restart(self, which: Tensor, codes: Tensor) -> None:
        """Replace some codes; each counts as an average one. which: (n,) int64; codes: (n, D)."""
        average = self.counts.mean()
        self.codes[which] = codes.to(self.codes)
        self.counts[which] = average
        self.sums[which] = average * self.codes[which]


class BinarySpherical(nn.Module):
    """2^bits codes: the corners (±1/√bits, …) of the cube inside the unit sphere."""

    place: Tensor
    counts: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("place", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)
        self.register_buffer("counts", torch.ones(1 << bits), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., bits) → quantised (..., bits), tokens (...), and the entropy loss ().

        The entropy loss (arXiv 2406.07548, eq. 6 and 7, with bits taken as independent) is the
        mean entropy of one latent's bits minus the entropy of the batch's mean bits, in nats. It is
        lowest, -ln 2, when each latent is certain of its bits and the batch uses all bits evenly.
        """
        unit = F.normalize(latents.float(), dim=-1)
        corner = 1 / math.sqrt(self.bits)
        quantised = torch.where(unit > 0, corner, -corner)
        tokens = ((unit > 0) * self.place).sum(-1)
        probability = torch.sigmoid(4 * unit / corner)
        latent_entropy = entropy(probability).mean()
        batch_entropy = entropy(probability.flatten(0, -2).mean(0)).mean()
        if self.training:
            counts = torch.bincount(tokens.flatten(), minlength=1 << self.bits).float()
            self.counts.lerp_(counts, 1 - EMA_DECAY)
        return straight_through(unit, quantised), tokens, latent_entropy - batch_entropy

    def usage(self) -> dict[str, Tensor]:
        """Perplexity and active codes, over the last hundred batches or so."""
        return usage(self.counts)

    @property
    def codes(self) -> Tensor:
        """(2^bits, bits): the vector of every code."""
        bits = torch.arange(1 << self.bits, device=self.place.device)[:, None] // self.place % 2
        return (2 * bits - 1) / math.sqrt(self.bits)


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """(N, D) and (K, D) → (N,) int64: the code at the smallest squared distance."""
    return (rows @ codes.T - codes.square().sum(1) / 2).argmax(1)


def straight_through(latents: Tensor, quantised: Tensor) -> Tensor:
    """The quantised values, with the gradient passed unchanged to the latents. One shape."""
    return latents + (quantised - latents).detach()


def usage(counts: Tensor) -> dict[str, Tensor]:
    """How well the codes are used. counts: (K,).

    perplexity: exp of the entropy of the codes' shares. active_codes: how many codes get more than
    UNUSED_SHARE of an average code's latents.
    """
    share = counts / counts.sum()
    return {
        "perplexity": torch.exp(torch.special.entr(share).sum()),
        "active_codes": (share > UNUSED_SHARE * share.mean()).sum(),
    }


def entropy(probability: Tensor) -> Tensor:
    """Entropy in nats of a bit that is 1 with this probability; any shape → same."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())
