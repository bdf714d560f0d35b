"""Measure imported FocalCodec and WavSLM weights against the code of their authors.

Both sides load the same weights: those of --checkpoint, or random ones in the shapes of
focalcodec_50hz, focalcodec_50hz_4k_causal and wavslm_4k. Their rows are in fp32, under autocast to
bf16, and with their weights converted to bf16, which their code does nowhere. All our rows are
compared with theirs in fp32, which is how their code runs, and our bf16 rows with the two others
too. Rows take turns, so that a noisy machine slows all of them alike; each row is the median of
its turns. Below a row of ours is its ceiling: how long its matrix products alone would take at the
fastest rate of this machine, or its weights to be read from memory once a step.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from jobs.bench.support import authors
from jobs.bench.support.authors import Authors, Checkpoint
from jobs.bench.support.ceiling import gemm_rate, read_rate
from jobs.bench.support.comparison import Table
from jobs.bench.support.speech import make_utterances
from jobs.cli import flags
from lm.generation import Generator
from lm.model import SpeechLM
from lm.wavslm import import_wavslm
from tokenizer.audio.arrays import utterance_of
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.config import EncoderConfig
from tokenizer.errors import UsageError
from tokenizer.published.checkpoint import read_checkpoint
from tokenizer.published.focalcodec import import_focalcodec
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import PRECISIONS, Tokenizer

TABLES = ("encode", "decode", "stream", "lm")
UTTERANCES = 4
# Chunks of 80 ms in a turn of a stream or of generation: with fewer, a short disturbance would
# decide the result.
CHUNKS = 20
LM_BATCH = 4
# What is before the first chunk: more than the windows of encoder and language model hold.
FRAMES_BEFORE = 520


@dataclass(frozen=True, kw_only=True)
class Codec:
    """One codec on both sides."""

    name: str
    theirs: Any
    files: TokenizerFiles

    def ours(self, precision: str) -> Tokenizer:
        """The imported tokenizer."""
        return Tokenizer(self.files, "cpu", precision)

    def flops_per_second(self, samples: int) -> float:
        """Of an utterance's encoder and compressor, whose matrix products alone count."""
        assert isinstance(self.files.encoder, EncoderConfig)
        products = self.parameters("compressor", dimensions=2)
        encoder = self.files.encoder.flops_per_second(samples / SAMPLE_RATE)
        return encoder + 2 * products * FRAMES_PER_SECOND / self.files.frames_per_token

    def parameters(self, part: str, dimensions: int = 1) -> int:
        """Of a part; dimensions: at least as many a tensor has."""
        tensors = (w for name, w in self.files.weights.items() if name.startswith(f"{part}."))
        return sum(tensor.numel() for tensor in tensors if tensor.dim() >= dimensions)


def encode_table(codec: Codec, waves: list[np.ndarray]) -> Table:
    """Waveforms → tokens. Ours gets the utterances as one batch, and pads nothing."""
    audio = authors.seconds_of(waves)
    title = f"encode, {codec.name}: {len(waves)} utterances of 2 to 20 s, {audio:.0f} s together"
    table = Table(title=title, audio=audio)
    for padded, precision in itertools.product((False, True), authors.PRECISIONS):
        model = authors.in_precision(codec.theirs, precision)
        run = partial(authors.encode, model, waves, precision=precision, padded=padded)
        table.add_theirs("padded batch" if padded else "one by one", precision, run)
    for precision in PRECISIONS:
        tokenizer = codec.ours(precision)
        windowing = tokenizer.windowing()
        windows = []
        for wave in waves:
            utterance = utterance_of(wave, SAMPLE_RATE)
            windows += list(windowing.cut(utterance, windowing.plan_samples(utterance.samples)))
        table.add_ours(precision, partial(tokenizer.encode_windows, windows))
        rate = gemm_rate(PRECISIONS[precision], "cpu", turns=3)
        flops = sum(len(w) / SAMPLE_RATE * codec.flops_per_second(len(w)) for w in waves)
        table.add_ceiling(precision, f"products, {rate / 1e9:.0f} GFLOP/s", flops / rate)
    return table


def decode_table(codec: Codec, waves: list[np.ndarray]) -> Table:
    """Tokens → waveforms, one utterance after the other."""
    tokenizer = codec.ours("fp32")
    tokens = [tokenizer.encode(wave) for wave in waves]
    audio = authors.seconds_of(waves)
    table = Table(title=f"decode, {codec.name}: the same utterances", audio=audio)
    table.add_theirs("", "fp32", partial(authors.decode, codec.theirs, tokens))
    table.add_ours("fp32", lambda: [tokenizer.decode(row) for row in tokens])
    return table


def stream_table(codec: Codec, waves: list[np.ndarray]) -> Table:
    """Chunks of 80 ms, one after the other, with full windows before them."""
    wave = np.resize(np.concatenate(waves), 60 * SAMPLE_RATE)
    before, size = FRAMES_BEFORE * SAMPLES_PER_FRAME, codec.theirs.chunk_size
    title = f"streaming encode, {codec.name}: {CHUNKS} chunks of {1000 * size // SAMPLE_RATE} ms"
    table = Table(title=title, audio=CHUNKS * size / SAMPLE_RATE)
    for precision in authors.PRECISIONS:
        model = authors.in_precision(codec.theirs, precision)
        next_chunk = authors.stream(model, wave, precision, before=before)
        table.add_theirs("", precision, partial(repeat, next_chunk))
    for precision in PRECISIONS:
        stream = codec.ours(precision).stream()
        stream.push(wave[:before])
        chunks = itertools.cycle(
            np.split(wave[before:], range(size, len(wave) - before, size))[:-1]
        )
        # map is lazy: each next() pushes one chunk.
        tokens = map(stream.push, chunks)
        table.add_ours(precision, partial(repeat, partial(next, tokens)))
        parameters = codec.parameters("encoder") + codec.parameters("compressor")
        add_reading(table, precision, parameters)
    return table


def lm_tables(checkpoint: Checkpoint, codec: Codec, theirs: Any) -> Iterator[Table]:
    """Generation with decompressed inputs, one row and several; and with a table of vectors.

    One table at a time, since each holds copies of both models.
    """
    torch.manual_seed(0)
    config = checkpoint.config
    model = import_wavslm(config, checkpoint.weights, codec.files, source=checkpoint.name)
    shape = replace(model.config, inputs="codes", decompressor=None)
    plain = SpeechLM.from_tokenizer(shape, codec.files)
    plain.encoder.load_state_dict(model.encoder.state_dict())
    plain.head.load_state_dict(model.head.state_dict())
    vectors = torch.randn(model.config.codebook_size, model.config.width)
    kinds = (
        ("decompressed inputs, batch of 1", model, 1, None),
        (f"decompressed inputs, batch of {LM_BATCH}", model, LM_BATCH, None),
        ("inputs from a table, batch of 1", plain, 1, vectors),
    )
    for title, ours, rows, table in kinds:
        name = f"generate, {checkpoint.name}: {title}"
        yield lm_table(name, ours, theirs, rows=rows, vectors=table)


def lm_table(
    title: str, ours: SpeechLM, theirs: Any, *, rows: int, vectors: torch.Tensor | None
) -> Table:
    """Chunks of tokens, one after the other, with a full window before them."""
    config = ours.config
    length = config.window // config.chunk * config.chunk
    prompts = torch.randint(0, config.codebook_size, (rows, length))
    audio = CHUNKS * rows * config.chunk * config.frames_per_token / FRAMES_PER_SECOND
    table = Table(title=f"{title}, {CHUNKS} chunks of {config.chunk} tokens", audio=audio)
    for precision in authors.PRECISIONS:
        model = authors.in_precision(theirs, precision)
        next_chunk = authors.generation(model, prompts, precision, table=vectors)
        table.add_theirs("", precision, partial(repeat, next_chunk))
    for precision, dtype in PRECISIONS.items():
        cast = copy.deepcopy(ours).eval().to_precision(dtype)
        chunks = Generator(cast).chunks(list(prompts.numpy()), list(range(rows)))
        next(chunks)
        table.add_ours(precision, partial(repeat, partial(next, chunks)))
        read = [cast.encoder, cast.head]
        if config.decompressor:
            read.append(cast.inputs)
        add_reading(table, precision, sum(p.numel() for part in read for p in part.parameters()))
    return table


def add_reading(table: Table, precision: str, parameters: int) -> None:
    """The ceiling of steps that each read all weights once."""
    size, rate = parameters * PRECISIONS[precision].itemsize, read_rate()
    limit = f"reading {size / 1e6:.0f} MB at {rate / 1e9:.0f} GB/s"
    table.add_ceiling(precision, limit, CHUNKS * size / rate)


def repeat(next_chunk: Callable[[], object]) -> None:
    """CHUNKS chunks, one after the other."""
    for _ in range(CHUNKS):
        next_chunk()


def parse() -> flags.argparse.Namespace:
    """The command line."""
    example = "python jobs/bench/published.py --focalcodec ../focalcodec --wavslm ../wavslm"
    parser = flags.parser(__doc__, example)
    parser.add_argument(
        "--focalcodec", required=True, metavar="FOLDER", help="a copy of the authors' repository"
    )
    parser.add_argument(
        "--wavslm", metavar="FOLDER", help="the same of WavSLM; without it there are no LM rows"
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="published checkpoints, as import_weights.py reads them (default: random weights)",
    )
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=TABLES, help="default: all of them"
    )
    parser.add_argument("--threads", type=flags.positive, default=2, help="default: %(default)s")
    parser.add_argument(
        "--turns", type=flags.positive, default=5, help="of each row (default: %(default)s)"
    )
    return parser.parse_args()


def read_checkpoints(args: flags.argparse.Namespace, code: Authors) -> list[Checkpoint]:
    """Those given, or random ones."""
    if not args.checkpoint:
        return code.random_checkpoints()
    found = []
    for folder in args.checkpoint:
        config, weights = flags.named("--checkpoint", read_checkpoint, Path(folder))
        found.append(Checkpoint(name=Path(folder).name, config=config, weights=weights))
    return found


def main() -> int:
    """Print the tables."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    code = Authors(args.focalcodec, args.wavslm)
    checkpoints = read_checkpoints(args, code)
    codecs = {
        one.name: Codec(
            name=one.name,
            theirs=code.codec(one),
            files=import_focalcodec(one.config, one.weights, source=one.name),
        )
        for one in checkpoints
        if one.codec is None
    }
    waves = [0.05 * wave.astype(np.float32) for wave in make_utterances(UTTERANCES)]
    print(f"{args.threads} threads, medians of {args.turns} turns")
    print(f"  {'row':<34}{'ms a turn':>9}{'all turns':>17}{'x real time':>13}")
    for codec in codecs.values():
        if "encode" in args.tables:
            encode_table(codec, waves).measure(args.turns)
        if "decode" in args.tables:
            decode_table(codec, waves).measure(args.turns)
        if "stream" in args.tables and codec.theirs.causal:
            stream_table(codec, waves).measure(args.turns)
    if "lm" in args.tables and code.lm_class:
        for one in checkpoints:
            if one.codec is not None:
                measure_lm(one, codecs.get(one.codec), code, turns=args.turns)
    return 0


def measure_lm(checkpoint: Checkpoint, codec: Codec | None, code: Authors, turns: int) -> None:
    """Its tables. Raises UsageError without its codec."""
    if codec is None:
        problem = f"its codec {checkpoint.codec} is not among the checkpoints"
        remedy = "give that folder too"
        raise UsageError(problem, remedy, value=checkpoint.name, argument="checkpoint")
    theirs = code.lm(checkpoint, codec.theirs)
    for table in lm_tables(checkpoint, codec, theirs):
        table.measure(turns)


if __name__ == "__main__":
    flags.run(main)
