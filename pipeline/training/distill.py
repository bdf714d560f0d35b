"""Audio shards → a tokenizer folder, its codebook distilled from WavLM.

Three stages, each of which continues after a kill: compressor and decompressor learn to pass
features on without a codebook between them; FAISS clusters their latents; with that codebook all
three learn together. A causal tokenizer has one more stage before these: its encoder becomes
causal. From then on the causal features are the input, and the bidirectional ones the target.
Ray Train trains in one process for each GPU, or one on the CPU.
"""

import json
from pathlib import Path

from ray.actor import ActorHandle

from pipeline.cluster.connect import connect
from pipeline.cluster.progress import say_precision
from pipeline.settings import DistillSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.distill_stages import (
    DISTILL,
    ENCODER,
    WARM_UP,
    DistillRun,
    distill_in_process,
)
from pipeline.training.launch import run_in_processes
from tokenizer.config import without_defaults
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.checkpoints import check_layout
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# Settings that came later: they are recorded only where they are given, so that a run that began
# before goes on.
LATER_SETTINGS = ("replicate_padding", "raw_input")


def distill(
    shards: list[Shard],
    output: Folder,
    *,
    encoder: Path,
    files: TokenizerFiles,
    settings: DistillSettings,
    precision: str,
    workers: int,
    runtime: RuntimeSettings,
) -> dict:
    """Train, and write the tokenizer to `output`; call it again after a kill to continue.

    encoder: the WavLM's local folder, for its upper layers. files: the encoder up to its layer.
    workers: processes that train. Returns the last line of the log. Raises UsageError when the
    output holds another run, and TrainingFailed when a training process ends in an error.
    """
    names = sorted(shard.name for shard in shards)
    values = without_defaults(settings, LATER_SETTINGS)
    record = {"encoder": files.encoder.to_dict(), **values, "shards": names}
    output.claim_run("training/run.json", {**record, "precision": precision, "workers": workers})
    for stage in (ENCODER, WARM_UP, DISTILL):
        check_layout(output.below(f"training/{stage}"))
    connect()
    say_precision(precision, runtime.device)
    training = TrainingSettings(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        precision=precision,
        seed=settings.seed,
        workers=workers,
    )

    def make_run(board: ActorHandle) -> DistillRun:
        return DistillRun(
            shards=shards,
            output=output.url,
            encoder=encoder,
            files=files,
            settings=settings,
            training=training,
            runtime=runtime,
            board=board,
        )

    run_in_processes(
        "distill", distill_in_process, make_run=make_run, device=runtime.device, workers=workers
    )
    log = (output.read_text(f"training/{DISTILL}/log.jsonl") or "").splitlines()
    return json.loads(log[-1])


def check_speech(shards: list[Shard], tokens: int, frames_per_token: int) -> None:
    """Raises UsageError unless the shards have this many tokens; reads only until they do."""
    found = 0
    for shard in shards:
        with open_shard(shard) as stream:
            for _, utterance, _ in read_utterances(stream, 0):
                if utterance is not None:
                    found += -(-utterance.num_frames // frames_per_token)
                if found >= tokens:
                    return
    raise UsageError(
        f"it needs at least as many tokens of speech, and the input has {found:,}",
        "give more speech, or lower it",
        value=tokens,
        argument="codebook_size",
    )
