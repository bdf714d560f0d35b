"""One transformer layer of WavLM: attention with gated relative position bias, and feed-forward.

Without gate and bias it is a layer of HuBERT or wav2vec 2.0. For inference: relative_position.py
says what the bias is, and trainable_layers.py has the same layer with gradients.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.config import EncoderConfig
from tokenizer.encoder.linear import InferenceLinear
from tokenizer.encoder.packing import Group
from tokenizer.encoder.relative_position import position_gate

# On a CPU, attention takes as many heads at a time as keep their scores under this many bytes;
# measured best with 1 to 2 MB of L2 cache per core.
SCORE_TILE_BYTES = 4 << 20


class TransformerLayer:
    """One WavLM layer: gated relative position attention and feed-forward, pre- or post-norm."""

    def __init__(self, weights: dict[str, Tensor], config: EncoderConfig) -> None:
        """weights: of the layer, with Hugging Face's names; those of the gate are needed only where
        config.position_bias says so.
        """
        self.config = config
        self.attention = attention
        self.norms = [
            (weights[f"{name}.weight"], weights[f"{name}.bias"])
            for name in ("layer_norm", "final_layer_norm")
        ]
        self.qkv_gate = InferenceLinear(*self._fused_projections(weights))
        self.gate_scale: Tensor | None = None
        if config.position_bias:
            self.gate_scale = weights["attention.gru_rel_pos_const"].view(-1)
        self.out = InferenceLinear(
            weights["attention.out_proj.weight"], weights["attention.out_proj.bias"]
        )
        self.up = InferenceLinear(
            weights["feed_forward.intermediate_dense.weight"],
            weights["feed_forward.intermediate_dense.bias"],
            gelu=True,
        )
        self.down = InferenceLinear(
            weights["feed_forward.output_dense.weight"], weights["feed_forward.output_dense.bias"]
        )

    def _fused_projections(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight and bias of one product that gives queries, keys, values and any gate logits.

        The gate's 8 outputs per head are summed in two groups of four (WavLM, eq. 4 and its code).
        A sum of linear outputs is one linear output, so their weights are summed here. A head reads
        its slice of x only, so its gate weights are one block of a block-diagonal matrix.
        """
        names = [f"attention.{name}_proj" for name in "qkv"]
        matrices = [weights[f"{name}.weight"] for name in names]
        biases = [weights[f"{name}.bias"] for name in names]
        if self.config.position_bias:
            heads, dim = self.config.num_attention_heads, self.config.head_dim
            gate = weights["attention.gru_rel_pos_linear.weight"].view(2, 4, dim).sum(1)
            gate_bias = weights["attention.gru_rel_pos_linear.bias"].view(2, 4).sum(1)
            matrices += [torch.block_diag(*[gate[i : i + 1]] * heads) for i in (0, 1)]
            biases.append(gate_bias.repeat_interleave(heads))
        return torch.cat(matrices), torch.cat(biases)

    def __call__(self, x: Tensor, groups: list[Group], bias: Tensor | None) -> Tensor:
        """(N, D) packed frames → same.

        bias: (heads, T, T), T at least the longest utterance; None of a layer without gates.
        """
        heads = self.config.num_attention_heads
        qkv, gate = self.project(x)
        mixed = torch.empty_like(x)
        for group in groups:
            q, k, v = group.pad(qkv).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            group_gate = None
            if gate is not None:
                group_gate = group.pad(gate).transpose(1, 2).unsqueeze(-1)
            mask = group.frame_mask
            if mask is not None:
                mask = mask[:, None]
            context = self.attention(q, k, v, gate=group_gate, bias=bias, mask=mask)
            mixed[group.start : group.stop] = group.unpad(context.transpose(1, 2).flatten(2))
        return self.finish(x, mixed)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, D) → queries, keys and values (N, 3 D), and the gates (N, heads), if it has any."""
        if self.config.do_stable_layer_norm:
            x = self._norm(x, self.norms[0])
        if self.gate_scale is None:
            return self.qkv_gate(x), None
        heads, width = self.config.num_attention_heads, self.config.hidden_size
        qkv, logits = self.qkv_gate(x).split([3 * width, 2 * heads], dim=-1)
        return qkv, position_gate(logits, self.gate_scale)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention: output projection, feed-forward, norms and residuals.

        x: (N, D), the layer's input. mixed: (N, D), the attention's output. Returns (N, D).
        """
        norm, final_norm = self.norms
        x = x + self.out(mixed)
        if self.config.do_stable_layer_norm:
            return x + self.down(self.up(self._norm(x, final_norm)))
        x = self._norm(x, norm)
        return self._norm(x + self.down(self.up(x)), final_norm)

    def _norm(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *weights, eps=self.config.layer_norm_eps)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + gate * bias) v.

    q: (B, H, T, d); k, v: (B, H, K, d); gate: (B, H, T, 1); bias: (H, >= T, >= K), or both
    None. mask: (B, 1 or T, K), True where a query may attend to a key; None where it may to all.
    Every query needs a key. Returns (B, H, T, d).

    PyTorch's scaled_dot_product_attention, except for bf16 on a CPU. There its fused kernel runs at
    fp32 speed, and plain batched products are 2.6 times as fast (11 s of audio, Zen 5).
    """
    batch, heads, frames, dim = q.shape
    keys = k.shape[2]
    if (gate is None or bias is None) and not (q.is_cpu and q.dtype == torch.bfloat16):
        mask = None if mask is None else mask[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if not q.is_cpu:
        assert gate is not None and bias is not None
        scores = gate * bias[:, :frames, :keys]
        if mask is not None:
            scores = torch.where(mask[:, None], scores, -math.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
    out = q.new_empty(batch, frames, heads, dim).transpose(1, 2)
    step = max(1, SCORE_TILE_BYTES // (frames * keys * q.element_size()))
    for i in range(batch):
        # What scores start from, added in the same pass over them as the bias.
        start = q.new_zeros(1 if mask is None else mask.shape[1], keys)
        if mask is not None:
            start.masked_fill_(~mask[i], -math.inf)
        for h in range(0, heads, step):
            part = slice(h, h + step)
            if gate is None or bias is None:
                scores = start.expand(min(step, heads - h), frames, keys).clone()
            elif mask is None:
                scores = gate[i, part] * bias[part, :frames, :keys]
            else:
                scores = torch.addcmul(start, gate[i, part], bias[part, :frames, :keys])
            q_, k_, v_ = q[i, part], k[i, part], v[i, part]
            if q.dtype == torch.bfloat16:
                scores.baddbmm_(q_.contiguous(), k_.contiguous().transpose(1, 2), alpha=dim**-0.5)
                out[i, part] = torch.bmm(torch.softmax(scores, -1), v_.contiguous())
            else:
                out[i, part] = F.scaled_dot_product_attention(
                    q_[None], k_[None], v_[None], attn_mask=scores[None]
                )[0]
    return out
