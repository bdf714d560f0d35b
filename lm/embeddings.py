"""What a token is to the language model: its vector, and the learned one that begins an utterance.

Vectors of a tokenizer are frozen: its centroids, or what its decompressor makes of the codes. A
causal decompressor hears each utterance as far as it has come; one that looks ahead would tell what
is to be predicted, so of it there is a table only, of what it makes of each code alone. Where a
token stands for several frames, its vector is their mean.

A model from scratch gets them standardised: of each dimension, mean 0 and variance 1 over all
codes. One that starts from WavLM's layers gets what those layers were trained on, untouched.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.config import START, LMConfig, LMError, tokens_per_chunk
from tokenizer.codec.compressor import Decompressor
from tokenizer.codec.decoder import Decoding
from tokenizer.codec.focal import State
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Codes that go through a decompressor at a time, each alone, for a table of them.
CODES_AT_A_TIME = 1024


class TokenInputs(nn.Module):
    """Rows of tokens (B, T) → vectors (B, T, width)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.input_width or config.width
        if config.inputs == "embedding":
            self.embedding = nn.Embedding(config.codebook_size, config.width)
        else:
            self.register_buffer("shift", torch.zeros(width))
            self.register_buffer("scale", torch.ones(width))
            self.in_proj = nn.Linear(width, config.width) if width != config.width else None
        if config.inputs == "codes":
            self.register_buffer("table", torch.zeros(config.codebook_size, width))
        elif config.inputs == "decompressor":
            if config.decompressor is None:
                raise LMError("its inputs are a decompressor's, and it does not say which")
            latent = config.decompressor.latent
            self.register_buffer("table", torch.zeros(config.codebook_size, latent))
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("feature_scale", torch.ones(()))
            self.decompressor = Decompressor(config.decompressor).requires_grad_(False)
        self.start = nn.Parameter(torch.empty(config.chunk, config.width))

    @torch.no_grad()
    def fill(self, files: TokenizerFiles) -> None:
        """Take the frozen vectors from a tokenizer, standardised."""
        features = vectors_of_codes(files)
        if self.config.inputs == "codes":
            self.table.copy_(features)
        elif self.config.inputs == "decompressor":
            self.table.copy_(files.weights["codebook.codes"])
            self.mean.copy_(files.weights["features.mean"])
            self.feature_scale.copy_(files.weights["features.scale"])
            prefix = "decompressor."
            own = {k.removeprefix(prefix): v for k, v in files.weights.items() if prefix in k}
            self.decompressor.load_state_dict(own)
        variance, mean = torch.var_mean(features, dim=0, correction=0)
        self.shift.copy_(mean)
        # A dimension that no code uses must not become noise.
        self.scale.copy_((variance + 1e-6 * variance.mean() + 1e-12).sqrt())

    @torch.no_grad()
    def leave_untouched(self) -> None:
        """Give frozen vectors as the tokenizer has them; utterances begin with their mean."""
        self.start.copy_(self.shift.expand_as(self.start))
        self.shift.zero_()
        self.scale.fill_(1.0)

    def forward(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """tokens: (B, T), START and PAD among them. utterance: (B, T). PAD's vector is zero."""
        known = tokens.clamp(min=0)
        if self.config.inputs == "decompressor":
            x = self.from_features(self._decompressed(tokens, utterance))
        else:
            x = self.of_tokens(known)
        x = x * (tokens >= 0).unsqueeze(-1)
        start = self.start.to(x.dtype).repeat(tokens.shape[1] // self.config.chunk, 1)
        return torch.where((tokens == START).unsqueeze(-1), start, x)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens alone → (B, T, width), where no decompressor is needed."""
        if self.config.inputs == "embedding":
            # Of unit variance whatever is learned, so that its rate is not the layers'.
            return F.layer_norm(self.embedding(tokens), (self.config.width,))
        return self.from_features(F.embedding(tokens, self.table))

    def from_features(self, features: Tensor) -> Tensor:
        """(..., input_width) as the tokenizer has them → (..., width)."""
        x = (features - self.shift) / self.scale
        return x if self.in_proj is None else self.in_proj(x)

    def decompress(
        self, tokens: Tensor, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """(B, T) tokens, whole chunks after `state` → (B, T, input_width), and the state."""
        features, state = self.decompressor(F.embedding(tokens, self.table), state=state)
        features = features.float() * self.feature_scale + self.mean
        return features.unflatten(1, (-1, self.config.frames_per_token)).mean(2), state

    @torch.compiler.disable
    @torch.no_grad()
    def _decompressed(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """(B, T, input_width): each utterance's tokens through the decompressor by themselves.

        They are gathered into padded batches of like length, which a causal decompressor does not
        mind, and what comes out is scattered back.
        """
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        owner = (row * (tokens.shape[1] + 1) + utterance.long()).flatten()
        place = (tokens.flatten() >= 0).nonzero()[:, 0]
        out = self.mean.new_zeros(tokens.numel(), len(self.mean))
        _, counts = torch.unique_consecutive(owner[place], return_counts=True)
        pieces = sorted(place.split(counts.tolist()), key=len)
        while pieces:
            # The longest, and all that are over half as long: little of a batch is padding.
            like = [own for own in pieces if 2 * len(own) > len(pieces[-1])]
            pieces = pieces[: len(pieces) - len(like)]
            padded = nn.utils.rnn.pad_sequence([tokens.flatten()[own] for own in like], True)
            features, _ = self.decompress(padded)
            for own, rows in zip(like, features):
                out[own] = rows[: len(own)]
        return out.view(*tokens.shape, -1)


@torch.no_grad()
def vectors_of_codes(files: TokenizerFiles) -> Tensor:
    """(K, D): what each code of a tokenizer stands for by itself."""
    decoding = Decoding(files)
    if not files.compressor:
        return decoding.codes_of(np.arange(files.codebook_size))
    own = decoding.compression
    codes = files.weights["codebook.codes"].float().unsqueeze(1)
    rows = [own.decompressor(part)[0].mean(1) for part in codes.split(CODES_AT_A_TIME)]
    return torch.cat(rows).float() * own.scale + own.mean


def inputs_for(files: TokenizerFiles, chunk: int) -> str:
    """Which LMConfig.inputs suit a tokenizer: its decompressor where that tells nothing early."""
    shape = files.compressor
    causal = shape is not None and shape.causal and chunk % tokens_per_chunk(shape) == 0
    return "decompressor" if causal else "codes"
