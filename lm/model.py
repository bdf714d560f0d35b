"""The language model: rows of tokens → logits of the next chunk of tokens.

Pre-norm transformer layers with WavLM's gated relative position bias and a chunk-causal mask, and a
linear head (WavSLM, arXiv 2603.05299). The parameters `encoder.*` and `head.weight` have WavSLM's
names, so that its published weights fit; `inputs.*` is this project's.

A row holds utterances side by side. An utterance takes whole chunks: one of START, then its tokens,
the last chunk filled up with PAD. The rest of a row is PAD, of utterance -1. Position i predicts
the token at i + chunk: all tokens of a chunk are predicted at once, from the chunks before it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.attention import Attend, attention_over, gates
from lm.config import LMConfig, LMError
from lm.embeddings import TokenInputs
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from tokenizer.tokenizer import Tokenizer

# The target of a position that predicts nothing.
NO_TARGET = -100
# Losses are computed on slices of this many logits: 64 MB in fp32.
LOGITS_AT_A_TIME = 1 << 24


class Attention(nn.Module):
    """Multi-head attention with gated relative position bias, (B, T, D) → same."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.gru_rel_pos_linear = nn.Linear(config.head_dim, 8)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.heads, 1, 1))

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """attend: from lm.attention.attention_over."""
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        gate = gates(
            x,
            self.gru_rel_pos_linear.weight,
            bias=self.gru_rel_pos_linear.bias,
            scale=self.gru_rel_pos_const,
        )
        return self.out_proj(attend(q, k, v, gate=gate).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.width, config.feed_forward)
        self.out_proj = nn.Linear(config.feed_forward, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → same."""
        return self.out_proj(F.gelu(self.in_proj(x)))


class Layer(nn.Module):
    """Attention and feed-forward, both pre-norm and with a residual."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """(B, T, D) → same."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class LMEncoder(nn.Module):
    """All layers and the final norm, (B, T, D) → same."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.relative_embedding = nn.Embedding(config.num_buckets, config.heads)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, utterance: Tensor) -> Tensor:
        """x: (B, T, D). utterance: (B, T), the utterance of each position."""
        kind, table = x.device.type, self.relative_embedding.weight
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype
        attend = attention_over(utterance, table, config=self.config, dtype=dtype)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, attend)
        return self.norm(x)


class SpeechLM(nn.Module):
    """Rows of tokens → logits of the tokens one chunk later.

    >>> model = SpeechLM.from_pretrained("s3://bucket/lm/model", device="cuda", precision="bf16")
    >>> logits = model(tokens, utterance)

    For training:

    >>> config = LMConfig(codebook_size=files.codebook_size, **PRESETS["tiny"])
    >>> model = SpeechLM.from_tokenizer(config, files)
    >>> losses = token_losses(model(tokens, utterance), targets(tokens, utterance, config.chunk))
    """

    def __init__(self, config: LMConfig) -> None:
        """Random weights; frozen inputs are zeros until from_tokenizer or a file fills them."""
        super().__init__()
        self.tokenizer_files: TokenizerFiles | None = None
        self._tokenizer: Tokenizer | None = None
        self.config = config
        self.inputs = TokenInputs(config)
        self.encoder = LMEncoder(config)
        self.head = nn.Linear(config.width, config.codebook_size, bias=False)
        self._initialize()

    @classmethod
    def from_tokenizer(cls, config: LMConfig, files: TokenizerFiles) -> "SpeechLM":
        """Random weights, and a tokenizer's frozen inputs; `.config` then names the tokenizer.

        Raises LMError when the tokenizer has another number of codes, or when its decompressor
        should give the inputs but it has none or one that is not causal.
        """
        if config.codebook_size != files.codebook_size:
            raise LMError(
                f"the model has {config.codebook_size} codes, and the tokenizer has "
                f"{files.codebook_size}"
            )
        decompressor = files.compressor if config.inputs == "decompressor" else None
        if config.inputs == "decompressor" and not (decompressor and decompressor.causal):
            raise LMError("the tokenizer has no causal decompressor to give the inputs")
        config = replace(
            config,
            tokenizer=files.fingerprint,
            frames_per_token=files.frames_per_token,
            input_width=files.width,
            decompressor=decompressor,
        )
        model = cls(config)
        if config.inputs != "embedding":
            model.inputs.fill(files)
        return model

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | str = "cpu", precision: str = "fp32"
    ) -> "SpeechLM":
        """The model in a folder or at a URL, in evaluation mode, with its tokenizer.

        precision: "fp32" or "bf16", of the layers and the head. Raises UsageError when there is no
        such folder, and LMError when it is not a language model's.
        """
        from lm.files import read_lm  # which imports this module

        local = fetch_folder(str(folder), "a language model")
        try:
            model, files = read_lm(local, device, precision)
        except LMError as error:
            error.value = error.value or str(folder)
            error.remedy = error.remedy or "give the folder of a language model"
            raise
        model.tokenizer_files = files
        return model

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer that the model came with, on the model's device; None if it has none.

        It is built on first use, in fp32, so that loading a model does not load an encoder.
        """
        from tokenizer.tokenizer import Tokenizer  # audio libraries, which training does not need

        if self._tokenizer is None and self.tokenizer_files is not None:
            self._tokenizer = Tokenizer(self.tokenizer_files, self.head.weight.device)
        return self._tokenizer

    def to_precision(self, dtype: torch.dtype) -> "SpeechLM":
        """Convert layers and head, in place; inputs stay in fp32. Returns the model."""
        self.encoder.to(dtype)
        self.head.to(dtype)
        return self

    @torch.no_grad()
    def _initialize(self) -> None:
        """Draw the weights so that every linear layer keeps the variance of its input.

        Residual projections are scaled by 1/sqrt(2 · layers), as in GPT-2; the head starts near
        zero.
        """
        for name, weight in self.named_parameters():
            if not weight.requires_grad or "norm" in name or name.endswith("_const"):
                continue
            if name.endswith("bias"):
                weight.zero_()
            elif name in ("head.weight", "encoder.relative_embedding.weight"):
                weight.normal_(std=0.02)
            elif name in ("inputs.start", "inputs.embedding.weight"):
                weight.normal_()
            else:
                residuals = 2 * self.config.layers if "out_proj" in name else 1
                weight.normal_(std=(weight.shape[1] * residuals) ** -0.5)

    def forward(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """tokens: (B, T) int64, utterance: (B, T) int32, T whole chunks → logits (B, T, K).

        Raises ValueError for other shapes.
        """
        if tokens.ndim != 2 or tokens.shape != utterance.shape:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)} and utterance {tuple(utterance.shape)}; "
                "both must be (B, T)"
            )
        if tokens.shape[1] % self.config.chunk:
            raise ValueError(
                f"rows of {tokens.shape[1]} positions are no whole chunks of {self.config.chunk}"
            )
        x = self.inputs(tokens, utterance).to(self.head.weight.dtype)
        return self.head(self.encoder(x, utterance))


def targets(tokens: Tensor, utterance: Tensor, chunk: int) -> Tensor:
    """(B, T) int64: the token at i + chunk if it belongs to the same utterance, else NO_TARGET."""
    later = F.pad(tokens[:, chunk:], (0, chunk), value=-1)
    same = F.pad(utterance[:, chunk:], (0, chunk), value=-1) == utterance
    return torch.where(same & (later >= 0), later, NO_TARGET)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, (B, T, K) and (B, T) → (B, T) fp32, in nats; 0 where there is no target.

    Forward and backward work in fp32 on slices. The only tensors as large as the logits are the
    logits and their gradient, both in the logits' dtype.
    """
    losses = _TokenLosses.apply(logits.flatten(0, 1), targets.flatten())
    return losses.view(targets.shape)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        index = targets.clamp(min=0)[:, None]
        target_logits = logits.gather(1, index)[:, 0].float()
        norms = torch.cat([part.float().logsumexp(1) for part in _sliced(logits)])
        ctx.save_for_backward(logits, targets, norms)
        return torch.where(targets >= 0, norms - target_logits, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, targets, norms = ctx.saved_tensors
        grad = torch.where(targets >= 0, grad, 0.0)
        index, out = targets.clamp(min=0)[:, None], torch.empty_like(logits)
        slices = zip(*(_sliced(x, logits.shape[1]) for x in (logits, norms, grad, index, out)))
        for part, norm, weight, target, out_part in slices:
            # The gradient of cross-entropy: softmax minus one-hot.
            softmax = (part.float() - norm[:, None]).exp_()
            softmax.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
            out_part.copy_(softmax.mul_(weight[:, None]))
        return out, None


def _sliced(x: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
    return x.split(max(1, LOGITS_AT_A_TIME // (size or x.shape[1])))
