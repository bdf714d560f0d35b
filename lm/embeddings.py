"""Input vectors of the language model: one per token, and learned ones at an utterance's start.

A tokenizer's vectors are frozen: its centroids, or its decompressed codes. A causal decompressor
decodes each utterance up to the present token. One that looks ahead would give away the tokens to
predict, so it only makes a table, of each code decompressed alone. The vector of a token that
stands for several frames is their mean.

A model trained from scratch gets standardised vectors: each dimension has mean 0 and variance 1
over all codes. One that starts from WavLM's layers gets the features those layers were trained on,
and one without START the features as they are, as published WavSLM models do.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.config import START, LMConfig, LMError
from tokenizer.codec.compressor import Decompressor
from tokenizer.codec.decoder import Decoding
from tokenizer.codec.focal import State
from tokenizer.storage.tokenizer_files import TokenizerFiles

# For the table, as many codes are decompressed in one batch.
CODES_AT_A_TIME = 1024


class TokenInputs(nn.Module):
    """Rows of tokens (B, T) → vectors (B, T, width)."""

    shift: Tensor
    scale: Tensor
    table: Tensor
    mean: Tensor
    feature_scale: Tensor

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
                raise LMError("its inputs are a decompressor's, but it has no decompressor's shape")
            latent = config.decompressor.latent
            self.register_buffer("table", torch.zeros(config.codebook_size, latent))
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("feature_scale", torch.ones(()))
            self.decompressor = Decompressor(config.decompressor).requires_grad_(False)
        if config.start:
            self.start = nn.Parameter(torch.empty(config.chunk, config.width))

    @torch.no_grad()
    def fill(self, files: TokenizerFiles) -> None:
        """Copy the frozen vectors from a tokenizer, and standardise them for a model with START."""
        features = None
        if self.config.start or self.config.inputs == "codes":
            features = vectors_of_codes(files)
        if self.config.inputs == "decompressor":
            self.table.copy_(files.weights["codebook.codes"])
            self.mean.copy_(files.weights["features.mean"])
            self.feature_scale.copy_(files.weights["features.scale"])
            prefix = "decompressor."
            weights = {k: v for k, v in files.weights.items() if k.startswith(prefix)}
            self.decompressor.load_state_dict(
                {k.removeprefix(prefix): v for k, v in weights.items()}
            )
        elif features is not None:
            self.table.copy_(features)
        if not self.config.start or features is None:
            return
        variance, mean = torch.var_mean(features, dim=0, correction=0)
        self.shift.copy_(mean)
        # A dimension without variance must not be scaled up to noise.
        self.scale.copy_((variance + 1e-6 * variance.mean() + 1e-12).sqrt())

    @torch.no_grad()
    def leave_untouched(self) -> None:
        """Undo the standardisation. The start vectors become the mean of the frozen vectors."""
        if self.config.start:
            self.start.copy_(self.shift.expand_as(self.start))
        self.shift.zero_()
        self.scale.fill_(1.0)

    def forward(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """tokens, utterance: (B, T), as SpeechLM's. The vector of PAD is zero."""
        known = tokens.clamp(min=0)
        if self.config.inputs == "decompressor":
            x = self.from_features(self._decompressed(tokens, utterance))
        else:
            x = self.of_tokens(known)
        x = x * (tokens >= 0).unsqueeze(-1)
        if not self.config.start:
            return x
        start = self.start.to(x.dtype).repeat(tokens.shape[1] // self.config.chunk, 1)
        return torch.where((tokens == START).unsqueeze(-1), start, x)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens, no START or PAD → (B, T, width); for inputs that need no decompressor."""
        if self.config.inputs == "embedding":
            # Unit variance, however large the learned vectors grow.
            return F.layer_norm(self.embedding(tokens), (self.config.width,))
        return self.from_features(F.embedding(tokens, self.table))

    def from_features(self, features: Tensor) -> Tensor:
        """The tokenizer's features (..., input_width) → input vectors (..., width)."""
        x = (features - self.shift) / self.scale
        return x if self.in_proj is None else self.in_proj(x)

    def decompress(
        self, tokens: Tensor, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """(B, T) tokens, whole chunks → (B, T, input_width), and the state for the next chunk."""
        dtype = next(self.decompressor.parameters()).dtype
        codes = F.embedding(tokens, self.table).to(dtype)
        features, state = self.decompressor(codes, state=state)
        features = features.float() * self.feature_scale + self.mean
        return features.unflatten(1, (-1, self.config.frames_per_token)).mean(2), state

    @torch.compiler.disable
    @torch.no_grad()
    def _decompressed(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """(B, T, input_width): each utterance of the rows, decompressed by itself.

        Utterances are gathered into padded batches of similar length, and the features scattered
        back. Padding after an utterance does not change a causal decompressor's output. On a GPU
        the host waits once, to see where utterances lie.
        """
        size, device = tokens.numel(), tokens.device
        batches = padded_batches(*rows_on_host(tokens, utterance))
        # What comes after an utterance's end is read from a place of its own, and written to it.
        known = F.pad(tokens.flatten(), (0, 1))
        out = self.mean.new_zeros(size + 1, len(self.mean))
        if batches:
            sizes = [batch.size for batch in batches]
            places = np.concatenate([batch.ravel() for batch in batches])
            moved = torch.from_numpy(places).to(device, non_blocking=True)
            for batch, place in zip(batches, moved.split(sizes)):
                features, _ = self.decompress(known[place].view(batch.shape))
                out.index_copy_(0, place, features.flatten(0, 1))
        return out[:size].view(*tokens.shape, -1)


def rows_on_host(tokens: Tensor, utterance: Tensor) -> np.ndarray:
    """(2, B, T) int64: both, in one copy."""
    return torch.stack([tokens, utterance.to(tokens.dtype)]).cpu().numpy()


def padded_batches(tokens: np.ndarray, utterance: np.ndarray) -> list[np.ndarray]:
    """The utterances of rows (B, T), in batches of similar length.

    Each batch is (n, longest) int64, the places of its utterances' tokens in the flattened rows;
    B T after an utterance's end. In a batch every utterance is over half as long as the longest.
    """
    owner = (np.arange(len(tokens))[:, None] * (tokens.shape[1] + 1) + utterance).ravel()
    place = np.flatnonzero(tokens.ravel() >= 0)
    if not len(place):
        return []
    starts = np.flatnonzero(np.diff(owner[place], prepend=owner[place[0]] - 1))
    counts = np.diff(starts, append=len(place))
    order = np.argsort(counts, kind="stable")
    starts, counts, batches = starts[order], counts[order], []
    while len(counts):
        longest = counts[-1]
        first = np.searchsorted(2 * counts, longest, side="right")
        frame = np.arange(longest)
        reach = np.minimum(starts[first:, None] + frame, len(place) - 1)
        inside = frame < counts[first:, None]
        batches.append(np.where(inside, place[reach], tokens.size))
        starts, counts = starts[:first], counts[:first]
    return batches


@torch.no_grad()
def vectors_of_codes(files: TokenizerFiles) -> Tensor:
    """(K, D): the features that each code of a tokenizer stands for, decoded alone."""
    decoding = Decoding(files)
    compression = decoding.compression
    if compression is None:
        return decoding.codes_of(np.arange(files.codebook_size))
    codes = files.weights["codebook.codes"].float().unsqueeze(1)
    rows = [compression.decompressor(part)[0].mean(1) for part in codes.split(CODES_AT_A_TIME)]
    return torch.cat(rows).float() * compression.scale + compression.mean
