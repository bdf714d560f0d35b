"""Token shards → audio shards: claim an OUTPUT, and decode what is missing."""

from dataclasses import replace
from typing import Any

from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import start_encoders
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import BatchLimits, EncoderSettings
from pipeline.shards.inputs import Shard, find_shards
from pipeline.tokenize.decoder_actor import DecoderActor
from pipeline.tokenize.detokenize_shard import DecodingPlan, detokenize_shard
from tokenizer.codec.decoder import Decoding
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import TokenFolder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.storage.vocoder_file import digest_of

# Sound in a batch: on a GPU it goes through the vocoder together; on a CPU one by one, and small
# batches spread over the cores.
GPU_BATCH_SECONDS, CPU_BATCH_SECONDS, BATCH_SIZE = 240, 30, 64


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
    """Make the audio shards that are missing, with a decoder on each GPU or core.

    device: "auto", "cpu" or "cuda". Returns {"shards", "already_done", "audio_hours", "failed":
    {shard name: why}}; hours are of this run. Raises UsageError for a device the cluster lacks.
    """
    present = set(output.names("", ".tar"))
    todo = [shard for shard in shards if shard.name not in present]
    seconds = 0.0
    failed: dict[str, str] = {}
    if todo:
        connect()
        files = without_encoder(files)
        plan = plan_of(Decoding(files))
        # One thread: their number changes the order of sums, and so the bytes.
        settings = EncoderSettings(device=device, cpus_per_encoder=1)
        pool = start_encoders(files, settings, "fp32", actor=DecoderActor)
        batch_seconds = GPU_BATCH_SECONDS if pool.device == "cuda" else CPU_BATCH_SECONDS
        tokens = batch_seconds * plan.sample_rate // plan.samples_per_token
        limits = BatchLimits(size=BATCH_SIZE, samples=tokens)

        def arguments(*, number: int, **_: Any) -> dict[str, Any]:
            return {
                "output": output.url,
                "plan": plan,
                "limits": limits,
                "dispatcher": pool.dispatcher("decode", number),
            }

        def take(_: Shard, audio: float) -> None:
            nonlocal seconds
            seconds += audio

        failed = run_shards(
            "detokenize",
            todo,
            room=pool,
            function=detokenize_shard,
            arguments=arguments,
            take=take,
        )
        output.sweep()
    return {
        "shards": len(shards),
        "already_done": len(shards) - len(todo),
        "audio_hours": seconds / 3600,
        "failed": failed,
    }


def plan_of(decoding: Decoding) -> DecodingPlan:
    """What shard tasks need to know of a decoder."""
    return DecodingPlan(
        None if decoding.is_causal else decoding.windowing(),
        decoding.samples_per_token,
        sample_rate=decoding.sample_rate,
        codebook_size=len(decoding.codes),
    )


def without_encoder(files: TokenizerFiles) -> TokenizerFiles:
    """The tokenizer without its encoder: decoding needs none, and it is most of the bytes."""
    weights = {name: w for name, w in files.weights.items() if not name.startswith("encoder.")}
    return replace(files, weights=weights)
