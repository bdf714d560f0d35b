"""Audio shards → token shards: claim an OUTPUT, tokenize what is missing, sum up."""

import json
import platform
import time
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.cluster.code import PROJECT
from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import EncoderPool, start_encoders
from pipeline.cluster.progress import TaskTime
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import BatchLimits, EncoderSettings, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.report import changed_inputs, gather, is_summed_up
from pipeline.tokenize.companions import Companions
from pipeline.tokenize.shard_task import TokenizedShard, tokenize_shard
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.audio.windows import Windowing
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.token_folder import finished_shards
from tokenizer.storage.tokenizer_files import TokenizerFiles

# In run.json: the seconds of audio in a batch, where the run found them itself.
FOUND_SECONDS = "batch_seconds_found"


@dataclass(frozen=True)
class TokenizeRun:
    """A claimed OUTPUT, and what decides the bytes of its shards.

    record: its run.json.
    """

    folder: Folder
    files: TokenizerFiles
    settings: TokenizeSettings
    windowing: Windowing
    record: dict

    @property
    def companions(self) -> Companions:
        """What is kept beside the tokens, without any counts yet."""
        per_second = FRAMES_PER_SECOND / self.files.frames_per_token
        return Companions(self.settings.keep, self.settings.spans, per_second)

    def batch_limits(self, pool: EncoderPool) -> BatchLimits:
        """The most that a batch holds, which run.json keeps where it was found on a GPU.

        There the last bit of a feature may depend on what else is in its batch.
        """
        found = self.record.get(FOUND_SECONDS)
        if self.settings.batch_seconds is None and pool.device != "cpu" and found is None:
            found = pool.find_batch_seconds(self.settings.window_seconds)
            text = json.dumps({**self.record, FOUND_SECONDS: found}, indent=2) + "\n"
            self.folder.publish_text(text, "run.json")
        return self.settings.batch_limits(found)


def open_output(
    url: str,
    files: TokenizerFiles,
    *,
    source: str,
    settings: TokenizeSettings,
    inputs_root: str,
) -> TokenizeRun:
    """Claim the OUTPUT folder: write run.json, or check the one that is there.

    source: where the tokenizer came from, for the record. inputs_root: the inputs' common folder.
    Raises UsageError when the folder cannot be written, or was made with another tokenizer or other
    settings, or windows are too short for the tokenizer.
    """
    windowing = settings.windowing(files)
    folder = Folder(url)
    decisive = {
        "tokenizer": files.fingerprint,
        "settings": settings.to_dict(),
        "inputs": inputs_root,
    }
    record = folder.claim(
        "run.json",
        {
            **decisive,
            "tokenizer_source": public_url(source),
            "codebook_size": files.codebook_size,
            "tokens_per_second": FRAMES_PER_SECOND / files.frames_per_token,
            "versions": versions(),
        },
    )
    for name, value in decisive.items():
        if record.get(name) != value:
            difference, fields = _difference(name, record.get(name), value)
            raise UsageError(
                f"it was made with {difference}",
                "repeat that run's settings, or give another folder",
                value=url,
                argument="output",
                mentions=fields,
            )
    return TokenizeRun(folder, files, settings=settings, windowing=windowing, record=record)


def changed_text(names: list[str]) -> str:
    """How many inputs have changed, and the first of them."""
    first = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return f"{len(names):,} inputs have changed ({first})"


def versions() -> dict[str, str]:
    """The versions of wavmill, Python, and the packages that decide tokens, for the record."""
    packages = ["torch", "ray", "numpy", "soundfile", "soxr"]
    packages += ["av"] if find_spec("av") else []
    return {
        "wavmill": _wavmill_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _wavmill_version() -> str:
    """As installed, or as pyproject.toml says where the checkout runs without being installed."""
    try:
        return version("wavmill")
    except PackageNotFoundError:
        pass
    try:
        return tomllib.loads(Path(PROJECT, "pyproject.toml").read_text())["project"]["version"]
    except (OSError, KeyError):
        return "unknown"


def _difference(name: str, before: Any, now: Any) -> tuple[str, tuple[str, ...]]:
    """How an OUTPUT's record differs from this run's, and the settings fields that this names."""
    if name == "settings" and isinstance(before, dict):
        fields = tuple(key for key in {**now, **before} if before.get(key) != now.get(key))
        parts = [f"{key} {before.get(key)}, not {now.get(key)}" for key in fields]
        return " and ".join(parts), fields
    if name == "tokenizer":
        return f"another tokenizer ({str(before)[:12]}, not {str(now)[:12]})", ()
    return f"inputs below {before}, not {now}", ()


def tokenize(
    shards: list[Shard],
    run: TokenizeRun,
    encoder_settings: EncoderSettings,
    *,
    on_changed: str = "keep",
) -> dict:
    """Tokenize the shards that have no report yet; write manifest.parquet and summary.json.

    on_changed: what becomes of shards whose input has changed since: "keep" them, "redo" them, or
    "refuse" to go on. Returns the summary, with "failed": {shard name: why} and "changed": names of
    shards that were kept. Where no shard is missing, nothing is written or started, and "this_run"
    is None. Raises UsageError for a changed input with "refuse".
    """
    folder, files = run.folder, run.files
    finished = set(finished_shards(folder))
    changed = [] if on_changed == "keep" else changed_inputs(folder, shards)
    if changed and on_changed == "refuse":
        raise UsageError(
            f"{changed_text(changed)} since they were tokenized",
            "redo them, or keep what was made",
            value=on_changed,
            argument="on_changed",
        )
    finished -= set(changed)
    todo = [shard for shard in shards if shard.name not in finished]
    if not todo and is_summed_up(folder, len(finished)):
        folder.sweep()
        totals = gather(folder, write_manifest=False, inputs=shards)
        return {**totals, "failed": {}, "this_run": None}
    connect()
    pool = start_encoders(files, encoder_settings, run.settings.precision)
    limits = run.batch_limits(pool)
    # Without its report a shard is not finished: a kill between its new tar and its new report
    # would leave the old report beside the new tar.
    for name in changed:
        folder.remove(f"reports/{name}.parquet")

    def arguments(*, number: int, **_: Any) -> dict[str, Any]:
        return {
            "output": folder.url,
            "windowing": run.windowing,
            "limits": limits,
            "max_duration": run.settings.max_duration,
            "codebook_size": files.codebook_size,
            "companions": run.companions,
            "dispatcher": pool.dispatcher("encode", number),
        }

    done = TokenizedShard(0.0, TaskTime())

    def take(_: Shard, shard: TokenizedShard) -> None:
        nonlocal done
        done += shard

    started = time.monotonic()
    failed = run_shards(
        "tokenize",
        todo,
        room=pool,
        function=tokenize_shard,
        arguments=arguments,
        take=take,
    )
    seconds = time.monotonic() - started
    this_run = {
        "shards": len(todo) - len(failed),
        "shards_already_done": len(shards) - len(todo),
        "audio_hours": done.seconds / 3600,
        "seconds": seconds,
        "times_real_time": done.seconds / seconds,
        "limited_by": done.time.limit(),
        "task_time": done.time.shares(),
        "device": pool.device,
        "encoders": pool.served,
    }
    totals = gather(folder, write_manifest=True, inputs=shards)
    summary = {**totals, "failed": failed, "this_run": this_run}
    folder.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    folder.sweep()
    return summary
