"""Audio shards and a tokenizer → the same tokenizer with a vocoder.

The vocoder is trained on what it will hear: what the tokenizer's own tokens of the speech decode
to. Its target is that speech at one level, as tokens do not say how loud it was.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from ray.actor import ActorHandle

from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter
from pipeline.settings import CropSettings, VocoderSettings
from pipeline.shards.inputs import Shard
from pipeline.training.crops import Crops
from pipeline.training.launch import run_in_processes, this_rank
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.vocoder_losses import VocoderTraining
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.storage.vocoder_file import WEIGHTS_FILE
from tokenizer.tokenizer import Tokenizer
from tokenizer.training.loop import TrainingSettings, train

# Batches whose features tell the mean and scale of all.
BATCHES_FOR_SCALE = 8
# Of a dimension, in that of the mean one.
SMALLEST_SCALE = 0.01
# Nothing is done to the sound.
UNCHANGED = {"speed": 0, "rooms": 0, "mixing": 0, "noise": 0, "channels": 0}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """All that a training process is told; travels to it by Ray."""

    shards: list[Shard]
    output: str
    files: TokenizerFiles
    settings: VocoderSettings
    training: TrainingSettings
    board: ActorHandle


def train_vocoder(
    shards: list[Shard],
    output: Folder,
    files: TokenizerFiles,
    settings: VocoderSettings,
    training: TrainingSettings,
) -> dict:
    """Train, and write the tokenizer with its vocoder to `output`; run again to go on after a kill.

    Returns the last line of the log. Raises UsageError when OUTPUT holds another run, and
    TrainingFailed when a training process ends in an error.
    """
    names = [shard.name for shard in shards]
    record = {"tokenizer": files.fingerprint, "shards": names, **asdict(settings)}
    output.claim_run("training/run.json", record)
    connect()

    def make_run(board: ActorHandle) -> _Run:
        return _Run(
            shards=shards,
            output=output.url,
            files=files,
            settings=settings,
            training=training,
            board=board,
        )

    run_in_processes(
        "vocoder",
        _train_in_process,
        make_run=make_run,
        device=training.device,
        workers=settings.workers,
    )
    log = (output.read_text("training/log.jsonl") or "").splitlines()
    return json.loads(log[-1])


def _train_in_process(config: dict) -> None:
    run: _Run = config["run"]
    settings = run.settings
    tokenizer = Tokenizer(run.files, run.training.device, settings.precision)
    # An encoder that normalises nothing is given speech at the level that comes out.
    heard = 1.0 if tokenizer.normalize else LEVEL
    crop = CropSettings(
        rows=settings.rows, frames=settings.frames, mask_share=0.1, mask_span=1, **UNCHANGED
    )

    def crops(step: int) -> Crops:
        return Crops(
            run.shards, None, noises=[], settings=crop, seed=[settings.seed, 1 + this_rank(), step]
        )

    def decoded(waves: torch.Tensor) -> torch.Tensor:
        # As tokenizing does it: under autocast the codebook lookup would not be in fp32.
        with torch.autocast(waves.device.type, enabled=False):
            tokens = tokenizer.encode_windows(list((heard * waves).cpu().numpy()))
            rows = tokenizer.decoding.features(tokens)
        # Out of inference mode, so that gradients can pass; a last token may stand for more frames
        # than there are.
        return torch.stack([own[: settings.frames].clone() for own in rows])

    # The same batches in all processes.
    few = islice(
        Crops(run.shards, None, noises=[], settings=crop, seed=[settings.seed, 0, 0]),
        BATCHES_FOR_SCALE,
    )
    rows = torch.cat([decoded(waves).flatten(0, 1).cpu() for waves, *_ in few])
    scale = rows.std(0)
    torch.manual_seed(settings.seed)
    model = VocoderTraining(
        settings.vocoder,
        rows.mean(0),
        # A dimension that hardly moves is not blown up.
        scale=scale.clamp(min=SMALLEST_SCALE * float(scale.mean())),
        adversarial_weight=settings.adversarial_weight,
    )

    def objective(waves, *_):
        return model(decoded(waves), LEVEL * waves)

    folder = Folder(run.output)
    show = Reporter(run.board)
    train(
        model,
        objective,
        batches=crops,
        settings=run.training,
        folder=folder.below("training"),
        name="vocoder",
        show=show,
    )
    if this_rank() == 0:
        _write(run, model, folder)


def _write(run: _Run, model: VocoderTraining, output: Folder) -> None:
    """The tokenizer, its configuration last: a folder without one is no tokenizer."""
    dtype = run.files.storage_dtype
    weights = {name: value.detach().cpu().to(dtype) for name, value in model.weights().items()}
    of_vocoder = {**asdict(run.settings), "shards": len(run.shards)}
    files = replace(
        run.files,
        vocoder=run.settings.vocoder,
        vocoder_weights=weights,
        made_by={**run.files.made_by, "vocoder": of_vocoder},
    )
    with tempfile.TemporaryDirectory() as scratch:
        files.save(Path(scratch))
        for name in (WEIGHTS_FILE, "model.safetensors", "config.json"):
            output.publish(Path(scratch) / name, name)
    output.below("training").sweep()
    output.sweep()
