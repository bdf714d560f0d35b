"""Token shards → audio shards: what has to be done, and doing it."""

import json
from dataclasses import replace

import ray

from pipeline.cluster.connect import connect
from pipeline.cluster.run_shards import run_shards
from pipeline.shards.inputs import Shard, find_shards
from pipeline.tokenize.detokenize_shard import detokenize_shard
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.storage.vocoder_file import digest_of


def find_token_shards(url: str, files: TokenizerFiles, source: str) -> tuple[str, list[Shard]]:
    """The finished shards of an OUTPUT of jobs/tokenize.py, and the folder they lie in.

    source: where the tokenizer came from, for the message. Raises UsageError when `url` is no such
    OUTPUT, when this tokenizer is not the one that made it, or when it has no finished shard.
    """
    folder, remedy = Folder(url, "input"), "give an OUTPUT of jobs/tokenize.py"
    try:
        text = folder.read_text("run.json")
        made_by = json.loads(text)["tokenizer"] if text else None
        finished = set(folder.names("reports", ".parquet"))
    except (ValueError, KeyError, TypeError):
        made_by = None
    except Exception as error:  # whatever a store raises, this folder cannot be used
        raise folder.unusable(error) from error
    if made_by is None:
        raise UsageError(
            "it has no run.json that names a tokenizer", remedy, value=url, argument="input"
        )
    if made_by != files.fingerprint:
        raise UsageError(
            f"the tokens of the input are of another ({str(made_by)[:12]}, not "
            f"{files.fingerprint[:12]})",
            "give that one, or what jobs/train_vocoder.py made of it",
            value=source,
            argument="tokenizer",
        )
    if not finished:
        raise UsageError(
            "it has no finished shard", "finish jobs/tokenize.py", value=url, argument="input"
        )
    root, shards = find_shards([f"{url.rstrip('/')}/shards"])
    return root, [shard for shard in shards if shard.name in finished]


def open_output(url: str, files: TokenizerFiles, root: str) -> Folder:
    """The OUTPUT folder, with run.json in it. root: the token shards' folder.

    Raises UsageError when it cannot be written, or was made of other tokens or by another vocoder.
    """
    folder = Folder(url)
    record = {
        "tokenizer": files.fingerprint,
        "vocoder": digest_of(files.vocoder_weights),
        "input": root,
    }
    folder.claim_run("run.json", record)
    return folder


def detokenize(shards: list[Shard], output: Folder, files: TokenizerFiles, device: str) -> dict:
    """Make the audio shards that are not there yet, one task a core or a GPU.

    device: "auto", "cpu" or "cuda". Returns {"shards", "already_done", "audio_hours", "failed":
    {shard name: why}}; hours are of this run. Raises UsageError for a device the cluster lacks.
    """
    present = set(output.names("", ".tar"))
    todo = [shard for shard in shards if shard.name not in present]
    done = {"shards": len(shards), "already_done": len(shards) - len(todo)}
    seconds, failed = 0.0, {}
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
        at_once = gpus if device == "cuda" else max(1, int(resources.get("CPU", 1)))
        task = ray.remote(num_gpus=1 if device == "cuda" else 0)(detokenize_shard)
        speaking = ray.put(without_encoder(files))

        def arguments(shard, number, left, board):
            return shard, output.url, speaking, device, board

        for shard, own, why in run_shards(
            "detokenize", todo, at_once=at_once, num_cpus=1, function=task, arguments=arguments
        ):
            if why:
                failed[shard.name] = why
            else:
                seconds += own
        output.sweep()
    return {**done, "audio_hours": seconds / 3600, "failed": failed}


def without_encoder(files: TokenizerFiles) -> TokenizerFiles:
    """What decoding needs: WavLM's layers are most of a tokenizer, and go to every task."""
    weights = {name: w for name, w in files.weights.items() if not name.startswith("encoder.")}
    return replace(files, weights=weights)
