"""The shapes of a tokenizer's parts, as in its config.json: encoder, compressor, vocoder.

Plain values, so that flags and folders can use them without loading PyTorch. Field names are those
on disk and enter the fingerprint: they never change.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tokenizer.audio.frames import (
    FRAMES_PER_SECOND,
    RECEPTIVE_FIELD,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
)
from tokenizer.errors import UsageError

# Fields of EncoderConfig that are written for a causal encoder only.
CAUSAL_FIELDS = ("causal", "chunk_frames", "past_frames", "gain")
# Fields that are written only where they differ from their default: they came later, and may not
# change the fingerprints of older tokenizers.
LATER_FIELDS = ("replicate_padding", "position_bias", "feat_proj_layer_norm")
LATER_VOCODER_FIELDS = ("head", "samples_per_frame", "margin", "limiter")


class EncoderError(UsageError):
    """A folder holds no WavLM that this project can run; the message says why."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A WavLM's shape, with Hugging Face's names and defaults (wavlm-base's).

    layer: the transformer layer whose output is the feature; no layer above it is kept.
    normalize: zero mean and unit variance for each utterance, as the preprocessor file says.
    causal: a frame sees its own chunk of chunk_frames, and the past_frames before that chunk.
    gain: factor on a causal encoder's input, since the variance of a stream is not known. A gain of
    20 gives speech at the nominal level (-26 dBov, ITU-T P.56) unit variance. Layer norm after the
    first convolution removes most of any other level.
    replicate_padding: of a causal encoder. Each convolution, the positional one too, is padded on
    its left by its first input, as in FocalCodec-Stream (arXiv 2509.16195): n samples give
    ceil(n / 320) frames, and frame t covers samples [320 t - 399, 320 t]. Without it frame t covers
    [320 t, 320 t + 400), and the positional convolution is padded by zeros.
    position_bias: attention has WavLM's gated relative position bias; HuBERT and wav2vec 2.0 have
    none.
    feat_proj_layer_norm: the conv features are normalised before their projection; DistilHuBERT's
    are not.
    """

    layer: int = 6
    normalize: bool = False
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: list[int] = field(default_factory=lambda: [512] * 7)
    conv_kernel: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_stride: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    hidden_act: str = "gelu"
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    layer_norm_eps: float = 1e-5
    causal: bool = False
    chunk_frames: int = 4
    past_frames: int = 512
    gain: float = 20.0
    replicate_padding: bool = False
    position_bias: bool = True
    feat_proj_layer_norm: bool = True

    def __post_init__(self) -> None:
        hop, receptive = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride):
            receptive += (kernel - 1) * hop
            hop *= stride
        if (hop, receptive) != (SAMPLES_PER_FRAME, RECEPTIVE_FIELD):
            raise EncoderError(
                f"its convolutions see {receptive} samples every {hop}; WavLM's see 400 every 320"
            )
        if (self.hidden_act, self.feat_extract_activation) != ("gelu", "gelu"):
            raise EncoderError("its activation is not gelu")
        if not 0 <= self.layer <= self.num_hidden_layers:
            raise EncoderError(
                f"it has {self.num_hidden_layers} layers, so there is no layer {self.layer}"
            )
        if self.causal and (self.feat_extract_norm != "layer" or self.normalize):
            raise EncoderError("it normalises over whole utterances, so it cannot be causal")
        if self.causal and not 0 < self.chunk_frames <= self.past_frames:
            raise EncoderError("a causal encoder's past_frames must hold a chunk")
        if self.causal and self.past_frames % self.chunk_frames:
            raise EncoderError("a causal encoder's past_frames must be whole chunks")
        if self.replicate_padding and not self.causal:
            raise EncoderError("its convolutions have replicate padding, but it is not causal")
        if self.causal and not self.position_bias:
            raise EncoderError("it has no position bias, so it cannot be causal")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: dict) -> "EncoderConfig":
        """From a dictionary, such as Hugging Face's, whose other entries are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    def to_dict(self) -> dict:
        """The fields for a config.json, those of CAUSAL_FIELDS only if it is causal."""
        values = without_defaults(self, LATER_FIELDS)
        return values if self.causal else {k: values[k] for k in values if k not in CAUSAL_FIELDS}

    def flops_per_second(self, utterance_seconds: float) -> float:
        """FLOPs for a second of audio, two per multiply-add, in utterances of this many seconds.

        Counts convolutions, projections, attention products and feed-forward, up to `layer`.
        """
        frames = utterance_seconds * SAMPLE_RATE / SAMPLES_PER_FRAME
        rate, channels, total = float(SAMPLE_RATE), 1, 0.0
        for out, kernel, stride in zip(self.conv_dim, self.conv_kernel, self.conv_stride):
            rate /= stride
            total += rate * channels * out * kernel
            channels = out
        width, per_second = self.hidden_size, SAMPLE_RATE / SAMPLES_PER_FRAME
        total += per_second * channels * width
        kernel, groups = self.num_conv_pos_embeddings, self.num_conv_pos_embedding_groups
        total += per_second * width * (width // groups) * kernel
        layer = 4 * width * width + 2 * width * self.intermediate_size + 2 * frames * width
        return 2 * (total + per_second * self.layer * layer)


@dataclass(frozen=True, kw_only=True)
class MFCCConfig:
    """MFCCs as an encoder.

    normalize: of the waveform, as for WavLM, so that features do not depend on loudness.
    standardize: zero mean and unit variance of each dimension over a window of the utterance, which
    removes much of speaker and channel.
    """

    normalize: bool = True
    standardize: bool = False

    @property
    def hidden_size(self) -> int:
        """Dimensions of a feature, under the name that EncoderConfig has for it."""
        return 39

    @classmethod
    def from_dict(cls, values: dict) -> "MFCCConfig":
        """Take the fields from a larger dictionary."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict:
        """The values and the kind of encoder, for a config.json."""
        return {"model_type": "mfcc", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """Shape of a compressor; the decompressor mirrors it.

    width: dimensions of the features. latent: dimensions of what is quantised. hidden: width of
    each block. factors: by how much each block divides the frame rate. focal_levels: convolutions
    of a block. focal_window: kernel of the first, in frames. focal_factor: how many frames wider
    each next one is. causal: no frame sees a later chunk. past_frames, chunk_frames: of the causal
    form, its context before a chunk and the length of a chunk.
    """

    width: int
    latent: int
    hidden: tuple[int, ...]
    factors: tuple[int, ...]
    focal_window: int = 7
    focal_levels: int = 2
    focal_factor: int = 2
    causal: bool = False
    past_frames: int = 512
    chunk_frames: int = 4

    def to_dict(self) -> dict:
        """The values, for a config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "FocalConfig":
        """From to_dict's values; lists become tuples. Raises TypeError for other fields."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    @property
    def frames_per_token(self) -> int:
        """Frames for each latent."""
        total = 1
        for factor in self.factors:
            total *= factor
        return total


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder.

    width: dimensions of the features. hidden: width of the blocks. layers: number of blocks.
    feed_forward: width inside a block. kernel: of the convolutions, in frames. n_fft: samples of
    the inverse STFT. causal: a frame's spectrum depends on no later frame.
    head: "istft" is Vocos (arXiv 2306.00814); "linear" is WaveNeXt (Okamoto et al. 2023), a linear
    layer that gives a frame's samples, without overlap. samples_per_frame: 320 is 16 kHz, 480 is 24
    kHz; an inverse STFT has 320. margin: samples of the waveform on each side of the T frames'
    320 T: 40 of an inverse STFT, or 0. limiter: samples above 0.8 are compressed; without it they
    are only clipped at 1. Raises ValueError for an n_fft whose windows do not cover every sample,
    for an even kernel, and for other values of head, samples_per_frame and margin.
    """

    width: int
    hidden: int = 512
    layers: int = 8
    feed_forward: int = 1536
    kernel: int = 7
    n_fft: int = 1024
    causal: bool = False
    head: str = "istft"
    samples_per_frame: int = SAMPLES_PER_FRAME
    margin: int = (RECEPTIVE_FIELD - SAMPLES_PER_FRAME) // 2
    limiter: bool = True

    def __post_init__(self) -> None:
        if self.head not in ("istft", "linear"):
            raise ValueError(f"head is {self.head!r}; it must be 'istft' or 'linear'")
        if self.head == "linear" and self.margin:
            raise ValueError(f"margin is {self.margin}; a linear head has none")
        if self.head == "istft" and self.samples_per_frame != SAMPLES_PER_FRAME:
            raise ValueError(f"samples_per_frame is {self.samples_per_frame}; it must be 320")
        if self.samples_per_frame < 1 or self.margin not in (0, 40):
            raise ValueError("samples_per_frame must be over zero, and margin 0 or 40")
        if self.n_fft % 2 or self.n_fft < RECEPTIVE_FIELD + SAMPLES_PER_FRAME // 2:
            raise ValueError(f"n_fft is {self.n_fft}; it must be even, and at least 560")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd")

    def to_dict(self) -> dict:
        """The values, for a config.json."""
        return without_defaults(self, LATER_VOCODER_FIELDS)

    @classmethod
    def from_dict(cls, values: dict) -> "VocoderConfig":
        """From to_dict's values. Raises TypeError for other fields, ValueError as above."""
        return cls(**values)

    @property
    def context_frames(self) -> int:
        """The receptive field: how many frames away another frame can change a frame's samples."""
        reach = self.kernel - 1 if self.causal else self.kernel // 2
        overlap = -(-self.n_fft // SAMPLES_PER_FRAME) if self.head == "istft" else 0
        return (self.layers + 1) * reach + overlap

    @property
    def sample_rate(self) -> int:
        """Of the waveform, in Hz."""
        return self.samples_per_frame * FRAMES_PER_SECOND


def without_defaults(config: Any, later: tuple[str, ...]) -> dict:
    """A dataclass's values, those of the fields in `later` only where they are not the default."""
    defaults = {field.name: field.default for field in fields(config)}
    values = asdict(config)
    return {k: v for k, v in values.items() if k not in later or v != defaults[k]}


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms of the distillation loss.

    features: error of the decompressed features. top: cosine distance of the top layer's output on
    decompressed features. alone: the same of its linear prediction from each code alone. quantizer:
    commitment or entropy loss.
    """

    features: float = 1.0
    top: float = 1.0
    alone: float = 1.0
    quantizer: float = 0.25
