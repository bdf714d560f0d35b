"""The settings of every job: frozen, keyword-only dataclasses of plain values.

Nothing heavy is imported here, so that a command line can show the defaults at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.config import FocalConfig, LossWeights, VocoderConfig
from tokenizer.errors import UsageError

# A larger unit is a mistake: no codebook is made so large.
MOST_CODES = 1 << 20
# FAISS's own advice: with fewer frames, the codes of k-means are poor.
LEAST_FRAMES_PER_CODE = 39
# Seconds of audio in a batch, unless it is said or found.
BATCH_SECONDS = 240.0

if TYPE_CHECKING:
    from tokenizer.audio.windows import Windowing
    from tokenizer.storage.tokenizer_files import TokenizerFiles


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Where encoders run. device: "auto", "cpu" or "cuda". encoders: None fills the cluster.

    cpus_per_encoder: threads of an encoder on a CPU. wait_seconds: how long a run without an
    encoder waits for a node that can hold one. gpus_per_encoder: GPUs that Ray reserves for one;
    None is one on "cuda" and none on "cpu". call_seconds: the most that a batch may take.
    """

    device: str = "auto"
    encoders: int | None = None
    cpus_per_encoder: int = 2
    wait_seconds: float = 30.0
    gpus_per_encoder: float | None = None
    call_seconds: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """The most that a batch holds: windows, and 16 kHz samples with padding to the longest."""

    size: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings:
    """How audio is encoded: what decides the bytes of an output beside the tokenizer.

    window_seconds: of a window; longer audio goes through in several. context_seconds: discarded at
    each inner edge of a window. batch_size: most windows in a batch. batch_seconds: most audio in
    one, padding included; None finds what suits the GPU, and then batch_size limits nothing.
    precision: of the encoder, "fp32" or "bf16". max_duration: longer audio is rejected; None takes
    any. keep: endings of the members beside the audio that go with the tokens; None keeps all
    but pickles. spans: fields of spans in seconds that get their tokens, as `spans_of` has them.
    """

    window_seconds: float = 30.0
    context_seconds: float = 2.0
    batch_size: int = 32
    batch_seconds: float | None = BATCH_SECONDS
    precision: str = "fp32"
    max_duration: float | None = None
    keep: tuple[str, ...] | None = None
    spans: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """The values, for run.json; the last three only where they are not the defaults."""
        values = asdict(self)
        if self.batch_seconds is None:
            values["batch_seconds"] = "auto"
        if self.max_duration is None:
            del values["max_duration"]
        for name in ("keep", "spans"):
            value = values.pop(name)
            if value != getattr(TokenizeSettings(), name):
                values[name] = list(value)
        return values

    def windowing(self, files: TokenizerFiles) -> Windowing:
        """How utterances are cut into windows for this tokenizer's encoder.

        Raises UsageError when a window is too short for its context, or for a causal encoder.
        """
        from tokenizer.audio.windows import Windowing

        past, chunk = files.past_and_chunk
        return Windowing.of_seconds(
            window_seconds=self.window_seconds,
            context_seconds=self.context_seconds,
            normalize=files.encoder.normalize,
            frames_per_token=files.frames_per_token,
            past=past,
            chunk=chunk,
            left_padding=files.left_padding,
        )

    def batch_limits(self, found_seconds: float | None = None) -> BatchLimits:
        """The most that one batch holds. found_seconds: of audio, in place of batch_seconds None.

        On a CPU nothing is found: batches change neither the speed there nor a bit of the result.
        """
        size, seconds = self.batch_size, self.batch_seconds or BATCH_SECONDS
        if self.batch_seconds is None and found_seconds is not None:
            # A window is seldom shorter than a second.
            size, seconds = int(found_seconds), found_seconds
        return BatchLimits(size=size, samples=int(seconds * SAMPLE_RATE))


@dataclass(frozen=True, kw_only=True)
class KmeansSettings:
    """How a k-means codebook is trained.

    metric: "l2" or "cosine". max_frames: of the sample, evenly from the shards drawn. center:
    subtract each window's mean, see `centred`. whiten: how many principal components are clustered,
    see `train_whitened`; 0 clusters the features themselves.
    """

    codebook_size: int
    metric: str
    max_frames: int
    iterations: int
    seed: int
    center: bool = False
    whiten: int = 0


@dataclass(frozen=True, kw_only=True)
class AllFramesSettings:
    """How a k-means codebook goes on from that of a sample, over all frames.

    passes: over all shards. cache_gb: most gigabytes of features on each node's local disk, in
    cache_folder; None takes the system's folder for temporary files.
    """

    passes: int
    cache_gb: float = 0.0
    cache_folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What a batch of crops holds, and how its sound is changed.

    frames: of a row. mask_share, mask_span: share of frames that are masked, and frames of a span.
    speed: utterances are played at a random speed between 1 / (1 + speed) and 1 + speed. The others
    are shares of rows: with the echo of a room, mixed with another speaker or with noise, and sent
    through the frequency response of a microphone and line.
    """

    rows: int
    frames: int
    mask_share: float
    mask_span: int
    speed: float
    rooms: float
    mixing: float
    noise: float
    channels: float


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """What decides a distilled tokenizer, beside the encoder and the audio.

    quantizer: "codebook" or "bsq". warm_up: steps without a codebook, before `steps` with it.
    rows, frames: of a batch. kmeans_frames: latents that FAISS clusters. encoder_steps: of the
    stage before, which trains a causal encoder; None keeps the bidirectional one.
    replicate_padding: of a causal encoder, see EncoderConfig. raw_input: a bidirectional encoder
    gets audio as it is, not normalised.
    """

    codebook_size: int
    quantizer: str
    focal: FocalConfig
    weights: LossWeights
    warm_up: int
    steps: int
    rows: int
    frames: int
    kmeans_frames: int
    learning_rate: float
    seed: int
    encoder_steps: int | None = None
    replicate_padding: bool = False
    raw_input: bool = False


@dataclass(frozen=True, kw_only=True)
class VocoderSettings:
    """What decides a vocoder, beside the tokenizer and the audio.

    rows, frames: of a process's batch. workers: processes that train, each on its own batches.
    """

    vocoder: VocoderConfig
    adversarial_weight: float
    steps: int
    rows: int
    frames: int
    learning_rate: float
    precision: str
    seed: int
    workers: int

    def to_dict(self) -> dict:
        """The values, for run.json; a vocoder's as in the config.json of its tokenizer."""
        return {**asdict(self), "vocoder": self.vocoder.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of an encoder's training.

    codes: number of labels. layer: of the encoder before, whose features are clustered for the
    labels; None clusters MFCCs. heard_weight: weight in the loss of frames that are not masked.
    """

    steps: int
    codes: int
    layer: int | None
    heard_weight: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides an encoder, beside its shape and the audio.

    spectrum_steps: before the first round, on spectra. whiten: principal components that are
    clustered for labels, see `train_whitened`; 0 clusters the features. start: the encoder whose
    weights and labels the first round takes, as the user names it. keep_layers: how many of its
    first layers stay as they are, with the convolutions; 0 trains everything.
    """

    spectrum_steps: int
    rounds: tuple[Round, ...]
    crops: CropSettings
    learning_rate: float
    precision: str
    seed: int
    whiten: int = 0
    start: str | None = None
    keep_layers: int = 0


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How units are imported.

    codebook_size: None takes the largest unit plus one. shard_tokens: a shard ends with the
    utterance that reaches this.
    """

    codebook_size: int | None
    tokens_per_second: float
    shard_tokens: int

    def __post_init__(self) -> None:
        if self.codebook_size is not None and self.codebook_size > MOST_CODES:
            raise UsageError(
                f"it is over {MOST_CODES:,}",
                "give the number of codes",
                value=self.codebook_size,
                argument="codebook_size",
            )
