"""The settings of every job: frozen, keyword-only dataclasses of plain values.

Nothing heavy is imported here, so that a command line can show the defaults at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.config import FocalConfig, LossWeights, VocoderConfig
from tokenizer.errors import UsageError

if TYPE_CHECKING:
    from tokenizer.audio.windows import Windowing
    from tokenizer.storage.tokenizer_files import TokenizerFiles


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Where encoders run. device: "auto", "cpu" or "cuda". encoders: None fills the cluster.

    cpus_per_encoder: threads of an encoder on a CPU.
    """

    device: str = "auto"
    encoders: int | None = None
    cpus_per_encoder: int = 2


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
    one, padding included. precision: of the encoder, "fp32" or "bf16".
    """

    window_seconds: float = 30.0
    context_seconds: float = 2.0
    batch_size: int = 32
    batch_seconds: float = 240.0
    precision: str = "fp32"

    def windowing(self, files: TokenizerFiles) -> Windowing:
        """How utterances are cut into windows for this tokenizer's encoder.

        Raises UsageError when a window is too short for its context, or for a causal encoder.
        """
        from tokenizer.audio.windows import Windowing

        past, chunk = files.past_and_chunk
        try:
            return Windowing.of_seconds(
                window_seconds=self.window_seconds,
                context_seconds=self.context_seconds,
                normalize=files.encoder.normalize,
                frames_per_token=files.frames_per_token,
                past=past,
                chunk=chunk,
            )
        except ValueError as error:
            shorten = f", or context_seconds shorter than {self.context_seconds:g}"
            raise UsageError(
                str(error),
                "make the window longer" + ("" if past else shorten),
                value=self.window_seconds,
                argument="window_seconds",
                mentions=("context_seconds",),
            ) from error

    def batch_limits(self) -> BatchLimits:
        """The most that one batch holds."""
        return BatchLimits(size=self.batch_size, samples=int(self.batch_seconds * SAMPLE_RATE))


@dataclass(frozen=True, kw_only=True)
class KmeansSettings:
    """How a k-means codebook is trained.

    metric: "l2" or "cosine". max_frames: of the sample, evenly from all shards. center: subtract
    each window's mean, see `centred`. whiten: how many principal components are clustered, see
    `train_whitened`; 0 clusters the features themselves.
    """

    codebook_size: int
    metric: str
    max_frames: int
    iterations: int
    seed: int
    center: bool = False
    whiten: int = 0


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What a batch holds and how its sound is changed.

    speed: factors of playing speed lie between 1 / (1 + speed) and 1 + speed. The others are shares
    of rows: put in a room, with another's speech or noise laid over, sent through a channel.
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
    """What decides the tokenizer beside the encoder and the audio.

    quantizer: "codebook" or "bsq". warm_up: steps without a codebook, before `steps` with it.
    rows, frames: of a batch. kmeans_frames: latents that FAISS clusters. encoder_steps: of making
    the encoder causal, before all; None leaves it bidirectional.
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


@dataclass(frozen=True, kw_only=True)
class VocoderSettings:
    """What decides the vocoder beside the tokenizer and the audio.

    rows, frames: of a batch. workers: processes, each with its own batches.
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


@dataclass(frozen=True, kw_only=True)
class Round:
    """codes: how many labels. layer: whose features of the round before, None for MFCCs.

    heard_weight: of frames that are not masked in the loss.
    """

    steps: int
    codes: int
    layer: int | None
    heard_weight: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the encoder, beside its shape and the audio.

    whiten: the labels' principal components, see `train_whitened`; 0 for none. start: the encoder
    that the first round's labels and weights are of, as the user names it. keep_layers: how many of
    its layers stay as they are, convolutions included; 0 trains everything.
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
