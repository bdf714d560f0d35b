"""WavLM's convolutions and lower transformer layers, for inference: waveforms in, features out.

WavLM (Chen et al. 2022, arXiv 2110.13900) in the two published shapes: wavlm-large (layer norm in
every convolution, pre-norm layers) and wavlm-base and -base-plus (one group norm over time,
post-norm layers). Numbers agree with `transformers.WavLMModel` cut at the same layer to rounding.
HuBERT (Hsu et al. 2021, arXiv 2106.07447) and wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477)
are the same networks without the gated position bias, and run here too.

Three things make it faster than the reference, and none changes what is computed:
* frames are rows of one packed matrix (packing.py), so no product runs on padding;
* data stay time-major, where a convolution over time is a linear layer over a sliding view; it
  takes two seconds of audio at a time, so that the outputs of a layer are still in cache;
* queries, keys, values and the bias gate come from one product; the relative position bias is
  computed once and reused by every layer and every utterance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLES_PER_FRAME, num_frames
from tokenizer.config import EncoderConfig
from tokenizer.encoder.linear import InferenceConv, InferenceLinear
from tokenizer.encoder.packing import groups_of
from tokenizer.encoder.relative_position import block_bias
from tokenizer.encoder.wavlm_layer import TransformerLayer

# On a CPU, about this many frames are convolved at a time; measured best with 1 to 2 MB of L2 cache
# per core.
CONV_TILE_FRAMES = 100
# Frames that the positional convolution's weight is laid out for.
POSITIONAL_FRAMES = 384


class ConvLayer:
    """One convolution over time on time-major rows, with its norm and GELU."""

    def __init__(self, weights: dict[str, Tensor], kernel: int, stride: int) -> None:
        weight = weights["conv.weight"]  # (out, in, kernel)
        self.kernel, self.stride = kernel, stride
        self.norm = "layer_norm.weight" in weights
        if self.norm:
            self.norm_weight = weights["layer_norm.weight"]
            self.norm_bias = weights["layer_norm.bias"]
        flat = weight.permute(0, 2, 1).reshape(weight.shape[0], -1)
        self.linear = InferenceLinear(flat, weights.get("conv.bias"), gelu=not self.norm)

    def convolve(self, x: Tensor) -> Tensor:
        """(B, T, C_in) contiguous → (B, T', C_out)."""
        batch, frames, channels = x.shape
        out = (frames - self.kernel) // self.stride + 1
        sliding = x.as_strided(
            (batch, out, self.kernel * channels), (frames * channels, self.stride * channels, 1)
        )
        return self.linear(sliding)

    def with_layer_norm(self, x: Tensor) -> Tensor:
        """(B, T, C_in) → (B, T', C_out): convolution, layer norm over channels if any, GELU."""
        y = self.convolve(x)
        if not self.norm:
            return y
        return F.gelu(F.layer_norm(y, y.shape[-1:], self.norm_weight, self.norm_bias))

    def with_group_norm(self, x: Tensor) -> Tensor:
        """(1, T, 1) → (1, T', C_out): convolution, each channel normalised over time, GELU."""
        y = self.convolve(x)
        var, mean = torch.var_mean(y.float(), dim=1, keepdim=True, correction=0)
        y = (y - mean) * torch.rsqrt(var + 1e-5) * self.norm_weight + self.norm_bias
        return F.gelu(y).to(x.dtype)


class WavLM:
    """The frozen encoder: normalised 16 kHz waveforms → features of one WavLM layer.

    norm: weight and bias of the layer norm before the first layer, of a post-norm encoder only.
    """

    norm: tuple[Tensor, Tensor]

    def __init__(
        self,
        config: EncoderConfig,
        weights: dict[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        utterances_per_group: int | None = None,
    ) -> None:
        """weights: as `read_encoder` gives them, with Hugging Face's names, cut at config.layer.

        utterances_per_group: how many utterances attention and the positional convolution get as
        one padded batch; None takes what is fastest on the device.
        """
        self.config, self.device, self.dtype = config, torch.device(device), dtype
        self.utterances_per_group = utterances_per_group
        weights = {k: v.to(device=self.device, dtype=dtype) for k, v in weights.items()}
        self.convs = [
            ConvLayer(_under(weights, f"feature_extractor.conv_layers.{i}."), kernel, stride)
            for i, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride))
        ]
        projection = _under(weights, "feature_projection.")
        self.projection_norm: tuple[Tensor, Tensor] | None = None
        if config.feat_proj_layer_norm:
            self.projection_norm = projection["layer_norm.weight"], projection["layer_norm.bias"]
        self.projection = InferenceLinear(
            projection["projection.weight"], projection["projection.bias"]
        )
        if not config.do_stable_layer_norm:
            self.norm = weights["encoder.layer_norm.weight"], weights["encoder.layer_norm.bias"]
        self.layers = [
            TransformerLayer(_under(weights, f"encoder.layers.{i}."), config)
            for i in range(config.layer)
        ]
        # (buckets, heads); empty when no transformer layer is used, or none has a position bias.
        no_table = torch.empty(config.num_buckets, 0, device=self.device)
        self.bias_table = weights.get("encoder.layers.0.attention.rel_attn_embed.weight", no_table)
        self._prepare_context(_under(weights, "encoder.pos_conv_embed.conv."))

    def _prepare_context(self, conv_weights: dict[str, Tensor]) -> None:
        """Set up what looks along time: the positional convolution and the position bias."""
        self.position = PositionalConv(conv_weights, self.config)
        self._bias = torch.empty(self.config.num_attention_heads, 0, 0)

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """Features of `config.layer` for each waveform.

        waveforms: 1-D float tensors at 16 kHz, normalised as `config.normalize` says, each of at
        least 400 samples. Returns one (T, D) tensor each, T = floor((n - 400) / 320) + 1. Raises
        ValueError for a shorter one.
        """
        lengths = frames_of(waveforms)
        if not lengths:
            return []
        groups = groups_of(lengths, self.device, self.utterances_per_group)
        x = self.frames(waveforms, lengths)
        x = x + torch.cat([group.unpad(self.position(group.pad(x))) for group in groups])
        if not self.config.do_stable_layer_norm:
            x = F.layer_norm(x, x.shape[-1:], *self.norm, eps=self.config.layer_norm_eps)
        bias = self.position_bias(max(lengths)) if self.config.position_bias else None
        for layer in self.layers:
            x = layer(x, groups, bias)
        return list(x.split(lengths))

    def frames(self, waveforms: list[Tensor], lengths: list[int]) -> Tensor:
        """Waveforms → (N, D) packed: the transformer's input, before positions are added."""
        x = self.convolve(waveforms, lengths)
        if self.projection_norm is not None:
            x = F.layer_norm(x, x.shape[-1:], *self.projection_norm, eps=self.config.layer_norm_eps)
        return self.projection(x)

    def convolve(self, waveforms: list[Tensor], lengths: list[int]) -> Tensor:
        """Waveforms → (N, C) packed conv features; lengths: frames of each."""
        waves = [wave.to(device=self.device, dtype=self.dtype) for wave in waveforms]
        if self.config.feat_extract_norm == "group":
            # The norm is over all of an utterance's time, so no utterance may be padded.
            return torch.cat([self._convolve_group_norm(wave) for wave in waves])
        if self.device.type != "cpu":
            return self._convolve_batch(waves, lengths)
        tiles = []
        for wave, frames in zip(waves, lengths):
            for first in range(0, frames, CONV_TILE_FRAMES):
                count = min(CONV_TILE_FRAMES, frames - first)
                start = first * SAMPLES_PER_FRAME
                stop = start + (count - 1) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD
                tiles.append(self._convolve_layer_norm(wave[start:stop].view(1, -1, 1))[0])
        return torch.cat(tiles)

    def _convolve_layer_norm(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv.with_layer_norm(x)
        return x

    def _convolve_group_norm(self, wave: Tensor) -> Tensor:
        x = self.convs[0].with_group_norm(wave.view(1, -1, 1))
        for conv in self.convs[1:]:
            x = conv.with_layer_norm(x)
        return x[0]

    def _convolve_batch(self, waves: list[Tensor], lengths: list[int]) -> Tensor:
        # No frame that is kept reaches the zeros after its utterance's end.
        batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        x = self._convolve_layer_norm(batch.unsqueeze(-1))
        return torch.cat([x[i, :frames] for i, frames in enumerate(lengths)])

    def position_bias(self, frames: int) -> Tensor:
        """(heads, T, T) with T >= frames: the bias of key j for query i.

        It is kept, and made again when a longer utterance comes.
        """
        if self._bias.shape[-1] < frames:
            self._bias = block_bias(self.bias_table, frames, past=0, config=self.config)
        return self._bias


class PositionalConv:
    """WavLM's convolutional position embedding: a grouped convolution of 128 frames, then GELU."""

    def __init__(self, weights: dict[str, Tensor], config: EncoderConfig) -> None:
        self.groups = config.num_conv_pos_embedding_groups
        # A 2-D convolution over channels-last data is twice as fast on a CPU as the 1-D one.
        weight = weights["weight"].unsqueeze(2)
        self.weight = weight.to(memory_format=torch.channels_last)
        self.bias = weights["bias"]
        self.kernel = weight.shape[-1]
        self.packed: InferenceConv | None = None
        if weight.is_cpu and weight.dtype == torch.bfloat16:
            self.packed = InferenceConv(
                weights["weight"], self.bias, groups=self.groups, frames=POSITIONAL_FRAMES
            )
            self.weight = weight.new_empty(0)  # not used again: memory is one copy

    def __call__(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D). An even kernel's last output is dropped, as in the reference."""
        if self.packed is not None:
            return self.packed(x, self.kernel // 2)[:, : x.shape[1]]
        return F.gelu(self._convolve(x, self.kernel // 2)[:, : x.shape[1]])

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        # By default cuDNN computes fp32 in TF32, and picks its algorithm by the batch's shape.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            y = F.conv2d(
                x.unsqueeze(1).permute(0, 3, 1, 2),
                self.weight,
                self.bias,
                padding=(0, padding),
                groups=self.groups,
            )
        return y.permute(0, 2, 3, 1)[:, 0]


def frames_of(waveforms: list[Tensor]) -> list[int]:
    """The number of frames of each waveform. Raises ValueError for one without a frame."""
    lengths = [num_frames(len(wave)) for wave in waveforms]
    if lengths and min(lengths) < 1:
        raise ValueError(f"a waveform has fewer than {RECEPTIVE_FIELD} samples")
    return lengths


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
