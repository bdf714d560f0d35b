"""The shard task of decoding: one token shard → one audio shard, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from ray.actor import ActorHandle

from pipeline.cluster.progress import ShardProgress
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.codec.decoder import Decoding
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tars import TarWriter
from tokenizer.storage.token_folder import as_reported
from tokenizer.storage.token_shards import read_tokens
from tokenizer.storage.tokenizer_files import TokenizerFiles


def detokenize_shard(
    shard: Shard, board: ActorHandle, *, output: str, files: TokenizerFiles, device: str
) -> float:
    """Make audio of one token shard; runs as a Ray task. Returns the seconds of audio.

    files: the tokenizer; its encoder's weights are not needed. Writes NAME.tar below `output`, with
    KEY.flac (16 bit, at the vocoder's rate) and the token shard's own KEY.json, in its order. A
    task that dies has changed nothing, and one that runs twice writes the same bytes twice.
    """
    if device == "cpu":
        # The number of threads changes the order of sums: bytes would depend on the machine.
        torch.set_num_threads(1)
    decoding = Decoding(files, device)
    progress = ShardProgress(board, shard.name)
    with open_shard(shard) as stream, scratch_folder() as scratch:
        tar_path, flac = scratch / "shard.tar", scratch / "speech.flac"
        tar = TarWriter(tar_path)
        utterances = read_tokens(stream, codebook_size=files.codebook_size)
        made = Folder(shard.url.removesuffix(f"/shards/{shard.name}.tar"), argument=None)
        for key, tokens, about in as_reported(utterances, made, shard.name):
            seconds = decoding.frames_per_token * len(tokens) / FRAMES_PER_SECOND
            progress.seconds_read += seconds
            write_flac(flac, decoding, tokens)
            with flac.open("rb") as file:
                tar.add_file(f"{key}.flac", file, flac.stat().st_size)
            tar.add(f"{key}.json", json.dumps(about).encode())
            progress.advance(stream.bytes_read, seconds)
        tar.close()
        Folder(output).publish(tar_path, f"{shard.name}.tar")
    progress.finish(shard.size)
    return progress.seconds_done


def write_flac(path: Path, decoding: Decoding, tokens: np.ndarray) -> None:
    """Decode to a 16-bit FLAC file, half a minute at a time."""
    with soundfile.SoundFile(path, "w", decoding.sample_rate, 1, "PCM_16", format="FLAC") as sound:
        for block in decoding.blocks(tokens):
            sound.write(np.rint(block * 32767).astype(np.int16))
