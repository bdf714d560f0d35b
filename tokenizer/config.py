"""The shapes of a tokenizer's parts, as its config.json holds them: encoder, compressor, vocoder.

One file of plain values, so that flags and folders can name them without loading PyTorch. The
field names are those on disk, and enter the fingerprint: they never change.
"""

from dataclasses import asdict, dataclass, field, fields

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.errors import UsageError

# Of EncoderConfig, what is written for a causal encoder alone: other folders stay as they were.
CAUSAL_FIELDS = ("causal", "chunk_frames", "past_frames", "gain")


class EncoderError(UsageError):
    """A folder that is not a WavLM this project can run; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A WavLM's shape, in Hugging Face's names and with its defaults (wavlm-base's).

    layer: the transformer layer whose output is the feature; nothing above it is kept.
    normalize: zero mean and unit variance for each utterance, as the preprocessor file says.
    causal: a frame sees its own chunk of chunk_frames, and past_frames before its chunk's first.
    gain: the causal encoder's input is the waveform times this, since a stream has no variance to
    divide by: 20 gives speech at the nominal level (-26 dBov, ITU-T P.56) unit variance, and layer
    norm after the first convolution takes out most of what a level differs from that.
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

    def __post_init__(self):
        hop, receptive = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride):
            receptive += (kernel - 1) * hop
            hop *= stride
        if (hop, receptive) != (SAMPLES_PER_FRAME, RECEPTIVE_FIELD):
            raise EncoderError(
                f"its convolutions take {receptive} samples every {hop}; WavLM takes 400 every 320"
            )
        if (self.hidden_act, self.feat_extract_activation) != ("gelu", "gelu"):
            raise EncoderError("it uses another activation than gelu")
        if not 0 <= self.layer <= self.num_hidden_layers:
            raise EncoderError(
                f"layer {self.layer} is asked of an encoder with {self.num_hidden_layers} layers"
            )
        if self.causal and (self.feat_extract_norm != "layer" or self.normalize):
            raise EncoderError("it normalises over whole utterances, and so cannot be causal")
        if self.causal and not 0 < self.chunk_frames <= self.past_frames:
            raise EncoderError("a causal encoder's past_frames must hold a chunk")
        if self.causal and self.past_frames % self.chunk_frames:
            raise EncoderError("a causal encoder's past_frames must be whole chunks")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: dict) -> "EncoderConfig":
        """Take the fields that decide a feature from a larger dictionary; leave the rest."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    def to_dict(self) -> dict:
        """Every field that says something, for a config.json that needs no defaults."""
        values = asdict(self)
        return values if self.causal else {k: values[k] for k in values if k not in CAUSAL_FIELDS}

    def flops_per_second(self, utterance_seconds: float) -> float:
        """Multiply-adds times two for a second of audio, in utterances of this many seconds.

        Counts convolutions, projections, attention products and feed-forward of the layers used.
        """
        frames = utterance_seconds * SAMPLE_RATE / SAMPLES_PER_FRAME
        rate, channels, total = SAMPLE_RATE, 1, 0.0
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
    """What decides the features.

    normalize: of the waveform, as WavLM's: features then do not depend on loudness.
    standardize: zero mean and unit variance of each dimension over a window of the utterance, which
    takes away much of voice and channel.
    """

    normalize: bool = True
    standardize: bool = False

    @property
    def hidden_size(self) -> int:
        """Dimensions of a feature, under the name that a WavLM's configuration has for it."""
        return 39

    @classmethod
    def from_dict(cls, values: dict) -> "MFCCConfig":
        """Take the fields from a larger dictionary."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_dict(self) -> dict:
        """The values, with the kind of encoder they are of."""
        return {"model_type": "mfcc", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """Shape of a compressor; its decompressor is its mirror image.

    width: of the features. latent: of what is quantised. hidden: of each block. factors: how many
    frames each block makes one. focal_window, focal_factor: the first convolution's kernel, and how
    much wider each later one is. causal: sees no later frame than its own.
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
        """As to_dict gave it; lists as tuples. Raises TypeError for what is none."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @property
    def frames_per_token(self) -> int:
        """How many frames one latent stands for."""
        total = 1
        for factor in self.factors:
            total *= factor
        return total


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of a vocoder.

    width: of the features. hidden: of the blocks. layers: blocks. feed_forward: width inside one.
    kernel: frames that a convolution sees. n_fft: samples of a frame's window. causal: a frame's
    spectrum depends on no later frame. Raises ValueError for a window with which samples would
    be lost, or a kernel without a middle.
    """

    width: int
    hidden: int = 512
    layers: int = 8
    feed_forward: int = 1536
    kernel: int = 7
    n_fft: int = 1024
    causal: bool = False

    def __post_init__(self):
        if self.n_fft % 2 or self.n_fft < RECEPTIVE_FIELD + SAMPLES_PER_FRAME // 2:
            raise ValueError(f"n_fft is {self.n_fft}; it must be even, and at least 560")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd")

    def to_dict(self) -> dict:
        """The values, for a config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "VocoderConfig":
        """As to_dict gave it. Raises TypeError or ValueError for what is none."""
        return cls(**values)

    @property
    def context_frames(self) -> int:
        """How far from a frame, to either side, another frame can still change its samples."""
        seen = self.kernel - 1 if self.causal else self.kernel // 2
        return (self.layers + 1) * seen + -(-self.n_fft // SAMPLES_PER_FRAME)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Of the features' error, of the top layer's by decompressed features and by each code alone,
    and of the quantiser's own loss.
    """

    features: float = 1.0
    top: float = 1.0
    alone: float = 1.0
    quantizer: float = 0.25
