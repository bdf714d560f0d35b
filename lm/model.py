"""The language model: rows of tokens → what the next chunk of tokens may be.

Pre-norm transformer layers with WavLM's gated relative position bias, made chunk-causal, and a
linear head (WavSLM, arXiv 2603.05299). Parameter names are those that WavSLM publishes, so that its
weights fit: `encoder.*` and `head.weight`; `inputs.*` is this project's.

A row, here and everywhere: an utterance takes whole chunks, first one of START, then its tokens,
the last filled with PAD; what is left of a row is PAD of utterance -1. Position i predicts the
token at i + chunk, so all tokens of a chunk are predicted at once, from what is before it.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.attention import attention_over, gates
from lm.config import LMConfig, LMError
from lm.embeddings import TokenInputs
from tokenizer.storage.tokenizer_files import TokenizerFiles

# What a target is where there is nothing to predict.
NO_TARGET = -100
# Losses are computed for as many logits at a time: 64 MB of fp32.
LOGITS_AT_A_TIME = 1 << 24


class Attention(nn.Module):
    """Queries, keys, values and the gate of the position bias; (B, T, D) → same."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.gru_rel_pos_linear = nn.Linear(config.head_dim, 8)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.heads, 1, 1))

    def forward(self, x: Tensor, attend) -> Tensor:
        """attend: of lm.attention.attention_over."""
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        gate = gates(
            x,
            self.gru_rel_pos_linear.weight,
            bias=self.gru_rel_pos_linear.bias,
            scale=self.gru_rel_pos_const,
        )
        return self.out_proj(attend(q, k, v, gate).transpose(1, 2).flatten(2))


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
    """Attention and feed-forward, each of a normed input and added to the residual."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend) -> Tensor:
        """(B, T, D) → same."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Encoder(nn.Module):
    """All layers, and the norm after the last; (B, T, D) → same."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.relative_embedding = nn.Embedding(config.num_buckets, config.heads)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, utterance: Tensor) -> Tensor:
        """utterance: (B, T), of each position."""
        kind, table = x.device.type, self.relative_embedding.weight
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype
        attend = attention_over(utterance, table, config=self.config, dtype=dtype)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, attend)
        return self.norm(x)


class SpeechLM(nn.Module):
    """Rows of tokens → logits of the tokens one chunk later.

    >>> model = SpeechLM.from_tokenizer(LMConfig(files.codebook_size, **PRESETS["tiny"]), files)
    >>> logits = model(tokens, utterance)
    >>> losses = token_losses(logits, targets(tokens, utterance, model.config.chunk))
    """

    def __init__(self, config: LMConfig) -> None:
        """Random weights; frozen inputs are zeros until from_tokenizer or a file fills them."""
        super().__init__()
        self.config = config
        self.inputs = TokenInputs(config)
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.width, config.codebook_size, bias=False)
        self._initialize()

    @classmethod
    def from_tokenizer(cls, config: LMConfig, files: TokenizerFiles) -> "SpeechLM":
        """Random weights, and the frozen inputs of a tokenizer; `.config` then names it.

        Raises LMError when the tokenizer has another number of codes, or its decompressor is to
        give the inputs and is none or not causal.
        """
        if config.codebook_size != files.codebook_size:
            raise LMError(
                f"the model is of {config.codebook_size} codes, and the tokenizer has "
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

    @torch.no_grad()
    def _initialize(self) -> None:
        """Every product keeps the variance of what it gets, but those that add to the residual
        add less of it the more there are of them, and the head begins near to no opinion.
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
                share = 2 * self.config.layers if "out_proj" in name else 1
                weight.normal_(std=(weight.shape[1] * share) ** -0.5)

    def forward(self, tokens: Tensor, utterance: Tensor) -> Tensor:
        """tokens: (B, T) int64, utterance: (B, T) int32, T whole chunks → logits (B, T, K)."""
        if tokens.shape[1] % self.config.chunk:
            raise ValueError(
                f"rows of {tokens.shape[1]} positions are no whole chunks of {self.config.chunk}"
            )
        x = self.inputs(tokens, utterance).to(self.head.weight.dtype)
        return self.head(self.encoder(x, utterance))


def targets(tokens: Tensor, utterance: Tensor, chunk: int) -> Tensor:
    """(B, T) int64: the token at i + chunk where that is one of the same utterance, else -100."""
    later = F.pad(tokens[:, chunk:], (0, chunk), value=-1)
    same = F.pad(utterance[:, chunk:], (0, chunk), value=-1) == utterance
    return torch.where(same & (later >= 0), later, NO_TARGET)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, T, K) and (B, T) → (B, T) fp32: nats of each target, 0 where there is none.

    Computed in slices in fp32, forward and backward: of the logits' size nothing is kept but them,
    in their own type, and their gradient.
    """
    losses = _TokenLosses.apply(logits.flatten(0, 1), targets.flatten())
    return losses.view(targets.shape)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        wanted = targets.clamp(min=0)[:, None]
        own = logits.gather(1, wanted)[:, 0].float()
        norms = torch.cat([part.float().logsumexp(1) for part in _sliced(logits)])
        ctx.save_for_backward(logits, targets, norms)
        return torch.where(targets >= 0, norms - own, 0.0)

    @staticmethod
    def backward(ctx, grad):
        logits, targets, norms = ctx.saved_tensors
        grad = torch.where(targets >= 0, grad, 0.0)
        wanted, out = targets.clamp(min=0)[:, None], torch.empty_like(logits)
        parts = zip(*(_sliced(x, logits.shape[1]) for x in (logits, norms, grad, wanted, out)))
        for own, norm, weight, place, slot in parts:
            chance = (own.float() - norm[:, None]).exp_()
            chance.scatter_add_(1, place, torch.full_like(place, -1, dtype=torch.float32))
            slot.copy_(chance.mul_(weight[:, None]))
        return out, None


def _sliced(x: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
    return x.split(max(1, LOGITS_AT_A_TIME // (size or x.shape[1])))


@torch.no_grad()
def start_from_wavlm(model: SpeechLM, wavlm, first_layer: int) -> None:
    """Copy WavLM's layers from `first_layer` (0 is its lowest) on, its bias table and final norm.

    wavlm: a transformers.WavLMModel, whose slow import is left to who has one. The inputs then
    arrive as the tokenizer has them, which is as that layer knew them. Raises LMError when shapes
    differ, layers are lacking, or norms come after the layers' parts.
    """
    config, theirs = model.config, wavlm.config
    if not theirs.do_stable_layer_norm:
        raise LMError("this WavLM norms after each part of a layer, and the model before it")
    if config.inputs == "embedding" or model.inputs.in_proj is not None:
        raise LMError("a model starts from WavLM's layers only on features of WavLM's width")
    if first_layer < 0 or first_layer + config.layers > theirs.num_hidden_layers:
        raise LMError(
            f"layers {first_layer + 1} to {first_layer + config.layers} are asked of a WavLM with "
            f"{theirs.num_hidden_layers}"
        )
    for ours, name in (
        ("width", "hidden_size"),
        ("heads", "num_attention_heads"),
        ("feed_forward", "intermediate_size"),
        ("num_buckets", "num_buckets"),
        ("max_bucket_distance", "max_bucket_distance"),
    ):
        if getattr(config, ours) != getattr(theirs, name):
            raise LMError(
                f"the model's {ours} is {getattr(config, ours)}, WavLM's {getattr(theirs, name)}"
            )
    model.config = model.encoder.config = replace(config, layer_norm_eps=theirs.layer_norm_eps)
    encoder = model.encoder
    table = wavlm.encoder.layers[0].attention.rel_attn_embed.weight
    encoder.relative_embedding.weight.copy_(table)
    copies = [(encoder.norm, wavlm.encoder.layer_norm)]
    for own, layer in zip(encoder.layers, wavlm.encoder.layers[first_layer:]):
        attention, feed_forward = layer.attention, layer.feed_forward
        projections = [getattr(attention, f"{part}_proj") for part in "qkv"]
        own.attention.qkv_proj.weight.copy_(torch.cat([part.weight for part in projections]))
        own.attention.qkv_proj.bias.copy_(torch.cat([part.bias for part in projections]))
        own.attention.gru_rel_pos_const.copy_(attention.gru_rel_pos_const)
        copies += [
            (own.attention_norm, layer.layer_norm),
            (own.attention.out_proj, attention.out_proj),
            (own.attention.gru_rel_pos_linear, attention.gru_rel_pos_linear),
            (own.feed_forward_norm, layer.final_layer_norm),
            (own.feed_forward.in_proj, feed_forward.intermediate_dense),
            (own.feed_forward.out_proj, feed_forward.output_dense),
        ]
    for own, their in copies:
        own.load_state_dict(their.state_dict())
        if isinstance(own, nn.LayerNorm):
            own.eps = theirs.layer_norm_eps
    model.inputs.leave_untouched()
