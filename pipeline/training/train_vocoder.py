"""Audio shards and a tokenizer → the same tokenizer with a vocoder.

The vocoder is trained on what it will get: features that the tokenizer decodes from its own tokens
of the speech. The target is that speech at one fixed level, as tokens do not hold loudness, and at
the vocoder's sample rate.
"""

import json
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import soxr
import torch
from ray.actor import ActorHandle
from torch import Tensor

from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter, say_precision
from pipeline.settings import CropSettings, VocoderSettings
from pipeline.shards.inputs import Shard
from pipeline.training.crop_training import train_on_crops
from pipeline.training.crops import TAIL_SAMPLES, UNCHANGED_SOUND, Crops
from pipeline.training.launch import run_in_processes
from tokenizer.audio.augmentation import normalize
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.windows import left_padded
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.vocoder_losses import VocoderTraining
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer
from tokenizer.training.checkpoints import check_layout
from tokenizer.training.processes import process_rank
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# Batches from which the features' mean and scale are measured.
BATCHES_FOR_SCALE = 8
# The smallest scale of a dimension, as a share of the mean scale.
SMALLEST_SCALE = 0.01


@dataclass(frozen=True, kw_only=True)
class VocoderRun:
    """Everything that a training process needs; Ray sends it there."""

    shards: list[Shard]
    output: str
    files: TokenizerFiles
    settings: VocoderSettings
    runtime: RuntimeSettings
    board: ActorHandle


def train_vocoder(
    shards: list[Shard],
    output: Folder,
    *,
    files: TokenizerFiles,
    settings: VocoderSettings,
    runtime: RuntimeSettings,
) -> dict:
    """Train, and write the tokenizer with its vocoder; call it again after a kill to continue.

    Returns the last line of the log. Raises UsageError when the output holds another run, and
    TrainingFailed when a training process ends in an error.
    """
    names = [shard.name for shard in shards]
    record = {"tokenizer": files.fingerprint, "shards": names, **settings.to_dict()}
    output.claim_run("training/run.json", record)
    check_layout(output.below("training"))
    connect()
    say_precision(settings.precision, runtime.device)

    def make_run(board: ActorHandle) -> VocoderRun:
        return VocoderRun(
            shards=shards,
            output=output.url,
            files=files,
            settings=settings,
            runtime=runtime,
            board=board,
        )

    run_in_processes(
        "vocoder",
        train_in_process,
        make_run=make_run,
        device=runtime.device,
        workers=settings.workers,
    )
    log = (output.read_text("training/log.jsonl") or "").splitlines()
    return json.loads(log[-1])


def train_in_process(config: dict) -> None:
    """What one training process does. config: {"run": a VocoderRun}."""
    run: VocoderRun = config["run"]
    settings = run.settings
    tokenizer = Tokenizer(run.files, run.runtime.device, settings.precision)
    # An encoder that does not normalise gets speech at the level that the vocoder gives.
    level = 1.0 if tokenizer.normalize else LEVEL
    decoding = tokenizer.decoding
    assert decoding is not None

    def decoded(waves: Tensor) -> Tensor:
        # As tokenizing does it: with autocast, the codebook lookup would not be in fp32.
        with torch.autocast(waves.device.type, enabled=False):
            rows = [encoder_input(row, run) for row in waves.cpu().numpy()]
            tokens = tokenizer.encode_windows([level * row for row in rows])
            features = decoding.features(tokens)
        # Cloned out of inference mode, so that gradients can pass. The last token of a row may
        # stand for more frames than the row has.
        return torch.stack([row[: settings.frames].clone() for row in features])

    # The first process's own stream is 1: 0 gives all processes the same batches.
    common = islice(_crops(run, 0).batches(), BATCHES_FOR_SCALE)
    rows = torch.cat([decoded(waves).flatten(0, 1).cpu() for waves, *_ in common])
    scale = rows.std(0)
    torch.manual_seed(settings.seed)
    model = VocoderTraining(
        settings.vocoder,
        rows.mean(0),
        # A dimension that hardly varies is not blown up.
        scale=scale.clamp(min=SMALLEST_SCALE * float(scale.mean())),
        adversarial_weight=settings.adversarial_weight,
    )

    def objective(waves: Tensor, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return model(decoded(waves), LEVEL * waves)

    output = Folder(run.output)
    train_on_crops(
        model,
        objective,
        _crops(run, 1 + process_rank()),
        muon=model.matrices(),
        settings=TrainingSettings(
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            precision=settings.precision,
            seed=settings.seed,
            workers=settings.workers,
        ),
        runtime=run.runtime,
        folder=output.below("training"),
        name="vocoder",
        show=Reporter(run.board),
    )
    if process_rank() == 0:
        _write(run, model, output)


def _crops(run: VocoderRun, stream: int) -> Crops:
    """Rows in which the sound is not changed. stream: which of the run's streams."""
    settings = run.settings
    crop = CropSettings(
        rows=settings.rows, frames=settings.frames, mask_share=0.1, mask_span=1, **UNCHANGED_SOUND
    )
    seed = [settings.seed, stream]
    rate = settings.vocoder.sample_rate
    return Crops(run.shards, None, noises=[], settings=crop, seed=seed, sample_rate=rate)


def encoder_input(row: np.ndarray, run: VocoderRun) -> np.ndarray:
    """A row of crops → (n,) of unit variance as the encoder gets it: the frames of the row.

    Crops have the vocoder's rate, as its targets do. They are resampled here, after the cut, so
    that one waveform is carried and sound and frames cannot come apart. Where two pieces meet the
    filter mixes a millisecond of both, and there the encoder hears a cut anyway. At 16 kHz the row
    stays as it is.
    """
    rate, padding = run.settings.vocoder.sample_rate, run.files.left_padding
    samples = run.settings.frames * run.settings.vocoder.samples_per_frame
    if rate != SAMPLE_RATE:
        row = normalize(soxr.resample(row[:samples], rate, SAMPLE_RATE, quality="HQ"))
        row = np.pad(row, (0, TAIL_SAMPLES))
    # With copies of the first sample in front, the last frame ends where the row does.
    return left_padded(row[: len(row) - TAIL_SAMPLES], padding) if padding else row


def _write(run: VocoderRun, model: VocoderTraining, output: Folder) -> None:
    """Publish the tokenizer with its vocoder."""
    dtype = run.files.storage_dtype
    weights = {name: value.detach().cpu().to(dtype) for name, value in model.weights().items()}
    vocoder_made_by = {**run.settings.to_dict(), "shards": len(run.shards)}
    files = replace(
        run.files,
        vocoder=run.settings.vocoder,
        vocoder_weights=weights,
        made_by={**run.files.made_by, "vocoder": vocoder_made_by},
    )
    with scratch_folder() as scratch:
        files.save(scratch)
        output.publish_folder(scratch)
    output.below("training").sweep()
    output.sweep()
