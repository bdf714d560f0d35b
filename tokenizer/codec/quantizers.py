"""What stands between compressor and decompressor while both are trained: latents → one code each.

Two kinds. `LearnedCodebook` begins as FAISS k-means over latents and follows the mean of what falls
to each code (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1). `BinarySpherical` takes the
signs of a latent on the unit sphere (Zhao et al. 2024, arXiv 2406.07548): its codes are fixed, all
corners of a cube, so there is nothing to fit. Gradients pass both unchanged (straight-through).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

# A code that had under this share of an even code's use is unused, and is set anew.
UNUSED_SHARE = 0.03
# Of what is averaged over batches, a step.
DECAY = 0.99
# Batches whose latents are kept to set unused codes from.
RECENT_BATCHES = 20


class LearnedCodebook(nn.Module):
    """K codes of `width` dimensions, learned by exponential moving averages."""

    codes: Tensor
    sums: Tensor
    counts: Tensor
    latents: Tensor

    def __init__(self, codes: Tensor, decay: float = DECAY) -> None:
        """codes: (K, D), FAISS's centroids. decay: of the averages, a step."""
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", codes.float().clone())
        self.register_buffer("sums", codes.float().clone())
        self.register_buffer("counts", torch.ones(len(codes)))
        # A buffer, so that a checkpoint has it.
        self.register_buffer("latents", torch.zeros(0, codes.shape[1]), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) → quantised (..., D), tokens (...), and the commitment loss.

        In training the averages take this batch in. Commitment: mean squared distance of a latent
        from its code, which moves the compressor alone.
        """
        rows = latents.detach().flatten(0, -2).float()
        tokens = nearest(rows, self.codes)
        quantised = self.codes[tokens].view(latents.shape)
        if self.training:
            self._follow(rows, tokens)
            self.latents = torch.cat([self.latents, rows])[-RECENT_BATCHES * len(rows) :]
        commitment = F.mse_loss(latents.float(), quantised)
        straight = latents + (quantised - latents).detach()
        return straight, tokens.view(latents.shape[:-1]), commitment

    @torch.no_grad()
    def _follow(self, rows: Tensor, tokens: Tensor) -> None:
        counts = torch.bincount(tokens, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, rows)
        if distributed.is_initialized():
            # So that the codebook of every process is the same.
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        # As if each code had one more latent, itself: else a code that is out of use divides by 0.
        smooth = 1e-3
        self.codes.copy_((self.sums + smooth * self.codes) / (self.counts + smooth)[:, None])

    def usage(self) -> dict[str, Tensor]:
        """Perplexity and active codes over the last hundred batches or so."""
        return usage(self.counts)

    @torch.no_grad()
    def unused(self) -> Tensor:
        """(n,) codes that fewer than a few in a hundred of their share of latents fall to."""
        return (self.counts <= UNUSED_SHARE * self.counts.mean()).nonzero()[:, 0]

    def recent(self) -> Tensor:
        """(n, D) latents of the last batches."""
        return self.latents

    @torch.no_grad()
    def restart(self, which: Tensor, codes: Tensor) -> None:
        """Set codes anew. which: (n,) of them; codes: (n, D)."""
        average = self.counts.mean()
        self.codes[which] = codes.to(self.codes)
        self.counts[which] = average
        self.sums[which] = average * self.codes[which]


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """(N, D) and (K, D) → (N,): the code at the least squared distance."""
    return (rows @ codes.T - codes.square().sum(1) / 2).argmax(1)


class BinarySpherical(nn.Module):
    """2^bits codes: the corners ±1/√bits of a cube in the unit sphere."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("place", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)
        self.register_buffer("counts", torch.ones(1 << bits), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., bits) → quantised (..., bits), tokens (...), and minus the codes' entropy.

        The loss (arXiv 2406.07548, eq. 6 and 7, bits taken as independent) is low where each
        latent is sure of its bits and all bits are used alike over the batch. In [-1, 1] of ln 2.
        """
        unit = F.normalize(latents.float(), dim=-1)
        corner = 1 / math.sqrt(self.bits)
        quantised = torch.where(unit > 0, corner, -corner)
        tokens = ((unit > 0) * self.place).sum(-1)
        chance = torch.sigmoid(4 * unit / corner)
        own = entropy(chance).mean()
        over_all = entropy(chance.flatten(0, -2).mean(0)).mean()
        if self.training:
            counts = torch.bincount(tokens.flatten(), minlength=1 << self.bits).float()
            self.counts.lerp_(counts, 1 - DECAY)
        straight = unit + (quantised - unit).detach()
        return straight, tokens, own - over_all

    def usage(self) -> dict[str, Tensor]:
        """Perplexity and active codes over the last hundred batches or so."""
        return usage(self.counts)

    @property
    def codes(self) -> Tensor:
        """(2^bits, bits): every code's vector."""
        bits = torch.arange(1 << self.bits, device=self.place.device)[:, None] // self.place % 2
        return (2 * bits - 1) / math.sqrt(self.bits)


def usage(counts: Tensor) -> dict[str, Tensor]:
    """Exp of the codes' entropy, and how many have more than UNUSED_SHARE of an even code's use."""
    share = counts / counts.sum()
    return {
        "perplexity": torch.exp(torch.special.entr(share).sum()),
        "active_codes": (share > UNUSED_SHARE * share.mean()).sum(),
    }


def entropy(chance: Tensor) -> Tensor:
    """Of a bit that is 1 with this chance, in nats."""
    chance = chance.clamp(1e-6, 1 - 1e-6)
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())
