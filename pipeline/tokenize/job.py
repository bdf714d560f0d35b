"""Audio shards → token shards: what has to be done, doing it, and the account of it."""

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version

from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import start_encoders
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import EncoderSettings, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.report import gather
from pipeline.tokenize.shard_task import tokenize_shard_task
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles


def open_output(
    url: str, files: TokenizerFiles, source: str, settings: TokenizeSettings, inputs_root: str
) -> Folder:
    """The OUTPUT folder, with run.json in it.

    source: where the tokenizer came from, for the record. inputs_root: the inputs' common folder.
    Raises UsageError when it cannot be written, or was made with another tokenizer or setting, or
    windows are too short for the tokenizer.
    """
    try:
        settings.windowing_of(files)
    except UsageError as error:
        error.value = settings.window_seconds
        raise
    folder = Folder(url)
    decisive = {
        "tokenizer": files.fingerprint,
        "settings": asdict(settings),
        "inputs": inputs_root,
    }
    versions = {name: version(name) for name in ("torch", "ray", "numpy", "soundfile", "soxr")}
    record = folder.claim(
        "run.json",
        {
            **decisive,
            "tokenizer_source": source,
            "codebook_size": files.codebook_size,
            "tokens_per_second": FRAMES_PER_SECOND / files.frames_per_token,
            "versions": {"python": platform.python_version(), **versions},
        },
    )
    for name, value in decisive.items():
        if record.get(name) != value:
            raise UsageError(
                f"it was made with {_difference(name, record.get(name), value)}",
                "repeat that run's settings, or give another folder",
                value=url,
                argument="output",
            )
    return folder


def _difference(name: str, before: object, now: object) -> str:
    if name == "settings" and isinstance(before, dict):
        parts = [
            f"--{key.replace('_', '-')} {before.get(key)}, not {value}"
            for key, value in now.items()
            if before.get(key) != value
        ]
        return " and ".join(parts)
    if name == "tokenizer":
        return f"another tokenizer ({str(before)[:12]}, not {str(now)[:12]})"
    return f"inputs below {before}, not {now}"


def tokenize(
    shards: list[Shard],
    folder: Folder,
    files: TokenizerFiles,
    settings: TokenizeSettings,
    encoder_settings: EncoderSettings,
) -> dict:
    """Tokenize the shards that have no report yet; write manifest.parquet and summary.json.

    Returns the summary, with "failed": {shard name: why} of those given up. Where nothing is
    missing nothing is written or started, and "this_run" is None.
    """
    finished = set(folder.names("reports", ".parquet"))
    todo = [shard for shard in shards if shard.name not in finished]
    last = folder.read_text("summary.json")
    if not todo and last and json.loads(last)["shards"] == len(finished):
        folder.sweep()
        return {**gather(folder, write_manifest=False), "failed": {}, "this_run": None}
    connect()
    pool = start_encoders(files, encoder_settings)
    windowing = settings.windowing_of(files)

    def arguments(shard, number, left, board):
        common = (folder.url, windowing, settings.batch_limits(), files.codebook_size)
        return (shard, *common, pool.actors, pool.batches_in_flight(left), number, board)

    started, failed, audio = time.monotonic(), {}, 0.0
    runs = run_shards(
        "tokenize",
        todo,
        at_once=pool.shards_at_once,
        num_cpus=pool.cpus_per_shard,
        function=tokenize_shard_task,
        arguments=arguments,
    )
    for shard, audio_seconds, why in runs:
        if why:
            failed[shard.name] = why
        else:
            audio += audio_seconds
    seconds = time.monotonic() - started
    totals = gather(folder, write_manifest=True)
    run = {
        "shards": len(todo) - len(failed),
        "shards_already_done": len(shards) - len(todo),
        "audio_hours": audio / 3600,
        "seconds": seconds,
        "times_real_time": audio / seconds,
        "device": pool.device,
        "encoders": len(pool.actors),
    }
    summary = {**totals, "failed": failed, "this_run": run}
    folder.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    folder.sweep()
    return summary
