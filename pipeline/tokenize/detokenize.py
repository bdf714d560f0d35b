"""Token shards → audio shards: claim an OUTPUT, and decode what is missing."""

from dataclasses import replace
from typing import Any

import ray

from pipeline.cluster.connect import connect
from pipeline.cluster.run_shards import run_shards
from pipeline.cluster.task_room import FixedRoom
from pipeline.shards.inputs import Shard, find_shards
from pipeline.tokenize.detokenize_shard import detokenize_shard
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import TokenFolder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.storage.vocoder_file import digest_of


def find_token_shards(url: str, files: TokenizerFiles, source: str) -> tuple[str, list[Shard]]:
    """The finished shards of an OUTPUT of jobs/tokenize.py, and the folder they lie in.

    source: where the tokenizer came from, for the message. Raises UsageError when `url` is no such
    OUTPUT, when another tokenizer made it, or when no shard of it is finished.
    """
    tokens = TokenFolder.open(url, argument="input")
    tokens.check_tokenizer(files.fingerprint, source)
    root, shards = find_shards([f"{url.rstrip('/')}/shards"])
    finished = set(tokens.names)
    return root, [shard for shard in shards if shard.name in finished]


def open_output(url: str, files: TokenizerFiles, root: str) -> Folder:
    """Claim the OUTPUT folder with run.json. root: the token shards' folder.

    Raises UsageError when it cannot be written, or was made from other tokens or by another
    vocoder.
    """
    folder = Folder(url)
    record = {
        "tokenizer": files.fingerprint,
        "vocoder": digest_of(files.vocoder_weights),
        "input": root,
    }
    folder.claim_run("run.json", record)
    return folder


def detokenize(shards: list[Shard], output: Folder, *, files: TokenizerFiles, device: str) -> dict:
    """Make the audio shards that are missing, one task per core or GPU.

    device: "auto", "cpu" or "cuda". Returns {"shards", "already_done", "audio_hours", "failed":
    {shard name: why}}; hours are of this run. Raises UsageError for a device the cluster lacks.
    """
    present = set(output.names("", ".tar"))
    todo = [shard for shard in shards if shard.name not in present]
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    if todo:
        connect()
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise UsageError(
                "the Ray cluster has no GPU",
                "add one, or use the CPU",
                value="cuda",
                argument="device",
            )
        device = "cuda" if gpus and device != "cpu" else "cpu"
        stored = ray.put(without_encoder(files))

        def arguments(**_: Any) -> dict[str, Any]:
            return {"output": output.url, "files": stored, "device": device}

        seconds, failed = run_shards(
            "detokenize",
            todo,
            room=FixedRoom(
                gpus if device == "cuda" else max(1, int(resources.get("CPU", 1))),
                num_cpus=1,
                num_gpus=1 if device == "cuda" else 0,
            ),
            function=detokenize_shard,
            arguments=arguments,
        )
        output.sweep()
    return {
        "shards": len(shards),
        "already_done": len(shards) - len(todo),
        "audio_hours": sum(seconds.values()) / 3600,
        "failed": failed,
    }


def without_encoder(files: TokenizerFiles) -> TokenizerFiles:
    """The tokenizer without its encoder: decoding needs none, and it is most of the bytes."""
    weights = {name: w for name, w in files.weights.items() if not name.startswith("encoder.")}
    return replace(files, weights=weights)
