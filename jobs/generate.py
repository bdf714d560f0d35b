"""Speech that goes on: continue prompts with a language model.

Writes OUTPUT/KEY.tokens.npy, the tokens that follow the prompt KEY; and, where the tokenizer has a
vocoder, KEY.wav, their sound, and KEY.joined.wav, the prompt as the tokens have it with what
follows. With --samples, KEY.1 and so on. The same flags give the same tokens, on the same kind of
machine, whatever other prompts there are. Exit status: 0 done; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import hashlib
import tempfile
import time

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from jobs.cli import flags
from jobs.cli.evaluate_lm import read_model
from jobs.cli.prompts import Prompt, audio_prompts, last_seconds, token_prompts
from lm.config import LMError
from lm.generation import Generator, Sampling
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.codec.decoder import Decoding
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

NO_VOCODER = (
    "the tokenizer has no vocoder, so there are tokens but no sound: train one with "
    "`jobs/train_vocoder.py --tokenizer {tokenizer}`, and run this again with its --output as "
    "--tokenizer"
)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    own = Sampling()
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/generate.py --lm out/lm/model --prompt recordings/*.flac --output out/heard\n"
        "  python jobs/generate.py --lm out/lm/model --limit 2 --seconds 5 "
        "--prompt-tokens out/tokens/shards/speech-000000.tar --output out/heard",
    )
    parser.add_argument(
        "--lm", required=True, metavar="URL", help="the model/ that jobs/train_lm.py wrote"
    )
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt", nargs="+", metavar="URL", help="audio files, folders of them or globs"
    )
    prompt.add_argument(
        "--prompt-tokens", nargs="+", metavar="URL", help="token shards (.tar) or arrays (.npy)"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for what follows")
    parser.add_argument(
        "--prompt-seconds",
        type=flags.positive_number,
        help="keep this much of each prompt, its end (default: all of it)",
    )
    parser.add_argument(
        "--limit", type=flags.positive, help="prompts, the first ones (default: all)"
    )
    parser.add_argument(
        "--seconds",
        type=flags.positive_number,
        default=10.0,
        help="of speech that follow a prompt (default: %(default)g)",
    )
    parser.add_argument(
        "--samples", type=flags.positive, default=1, help="of each prompt (default: %(default)s)"
    )
    how = parser.add_argument_group("how tokens are drawn")
    how.add_argument(
        "--temperature",
        type=flags.not_negative,
        default=own.temperature,
        help="0 takes the likeliest token (default: %(default)g)",
    )
    how.add_argument(
        "--top-k", type=flags.positive, help="from so many likeliest tokens (default: all)"
    )
    how.add_argument(
        "--top-p",
        type=flags.rate,
        default=own.top_p,
        help="from the likeliest that together have this chance; 1 is all (default: %(default)g)",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="another gives other speech")
    where = parser.add_argument_group("where and how it runs")
    where.add_argument(
        "--tokenizer",
        metavar="URL",
        help="the model's own tokenizer with a vocoder (default: the one in --lm)",
    )
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the model; auto: bf16 where the machine is made for it",
    )
    where.add_argument(
        "--batch-size",
        type=flags.positive,
        default=8,
        help="continuations at a time (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, continuations out."""
    args = parse()
    device, precision = flags.device_and_precision(args)
    try:
        sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    except LMError as error:
        raise flags.unusable("--top-p", args.top_p, str(error), "give one up to 1") from error
    model, files = read_model(args.lm, device, precision)
    files = with_vocoder(args, files)
    each = model.config.frames_per_token
    if args.prompt_tokens:
        prompts = token_prompts(args.prompt_tokens, model.config, args.limit)
    else:
        prompts = audio_prompts(args.prompt, files, lm=args.lm, device=device, limit=args.limit)
    generator, window = Generator(model), model.config.window
    del model
    for prompt in prompts:
        if args.prompt_seconds:
            prompt.tokens = last_seconds(prompt.tokens, args.prompt_seconds, each)
        check(prompt, generator, window * each / FRAMES_PER_SECOND)
    output = flags.named("--output", Folder, args.output)
    check_names(prompts, output)
    decoding = Decoding(files, device) if files and files.vocoder else None
    count = max(1, round(args.seconds * FRAMES_PER_SECOND / each))
    rows = [(prompt, sample) for prompt in prompts for sample in range(args.samples)]
    began = time.monotonic()
    with tqdm(total=count * len(rows), unit=" tokens", dynamic_ncols=True) as bar:
        for start in range(0, len(rows), args.batch_size):
            some = rows[start : start + args.batch_size]
            width = len(some)
            made = generator.generate(
                [prompt.tokens for prompt, _ in some],
                count,
                [seed_of(args.seed, prompt.key, sample) for prompt, sample in some],
                sampling=sampling,
                show=lambda done, width=width: bar.update(done * width),
            )
            for (prompt, sample), tokens in zip(some, made):
                key = prompt.key if args.samples == 1 else f"{prompt.key}.{sample + 1}"
                write(output, key, prompt=prompt.tokens, tokens=tokens, decoding=decoding)
    output.sweep()
    spoken, spent = count * len(rows), time.monotonic() - began
    print(
        f"{len(rows)} continuations of {count * each / FRAMES_PER_SECOND:.2f} s, {spoken:,} tokens "
        f"in {spent:.1f} s ({precision} on {device})"
    )
    if files and not decoding:
        print(NO_VOCODER.format(tokenizer=args.tokenizer or f"{args.lm.rstrip('/')}/tokenizer"))
    print(f"written to {args.output}")
    return 0


def with_vocoder(args, files: TokenizerFiles | None) -> TokenizerFiles | None:
    """The tokenizer of --tokenizer where there is one, which must be the model's."""
    if not args.tokenizer:
        return files
    own = flags.read_tokenizer(args.tokenizer)
    if files is None or own.fingerprint != files.fingerprint:
        whose = files.fingerprint[:12] if files else "tokens that name no tokenizer"
        raise flags.unusable(
            "--tokenizer",
            args.tokenizer,
            f"it is {own.fingerprint[:12]}, and the model is of {whose}",
            "give the tokenizer that lies in --lm, or what jobs/train_vocoder.py made of it",
        )
    return own


def check(prompt: Prompt, generator: Generator, most: float) -> None:
    """Raises UsageError for a prompt that cannot be continued. most: seconds that fit."""
    if not len(prompt.tokens):
        raise flags.unusable(
            prompt.flag, prompt.url, "it has no tokens", "give one with speech in it"
        )
    if len(prompt.tokens) > generator.config.window:
        problem = f"it has {len(prompt.tokens)} tokens, more than the model looks back on"
        raise flags.unusable(
            prompt.flag, prompt.url, problem, f"keep its end with --prompt-seconds {most:g}"
        )
    try:
        generator.check(prompt.tokens)
    except LMError as error:
        remedy = "give tokens of the model's own tokenizer"
        raise flags.unusable(prompt.flag, prompt.url, str(error), remedy) from error


def check_names(prompts: list[Prompt], output: Folder) -> None:
    """Raises UsageError when what is written would lie where a prompt does."""
    taken = {prompt.url.rpartition("://")[2] for prompt in prompts}
    for prompt in prompts:
        for ending in ("wav", "joined.wav", "tokens.npy"):
            if output.path(f"{prompt.key}.{ending}") in taken:
                problem = f"{prompt.key}.{ending} in it is a prompt"
                raise flags.unusable("--output", output.url, problem, "give another folder")


def seed_of(seed: int, key: str, sample: int) -> int:
    """Each continuation's own, whichever others there are."""
    digest = hashlib.sha256(f"{seed} {sample} {key}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def write(
    output: Folder, key: str, prompt: np.ndarray, tokens: np.ndarray, decoding: Decoding | None
) -> None:
    """KEY.tokens.npy, and the sound if there is any."""
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        path = Path(scratch) / "file"
        with path.open("wb") as file:
            np.save(file, tokens.astype(np.uint32 if tokens.max() > 0xFFFF else np.uint16))
        output.publish(path, f"{key}.tokens.npy")
        if decoding is None:
            return
        with torch.inference_mode():
            joined = decoding.waveform(np.concatenate([prompt.astype(np.int64), tokens]))
        begin = len(prompt) * decoding.frames_per_token * SAMPLES_PER_FRAME
        for wave, ending in ((joined, "joined.wav"), (joined[begin:], "wav")):
            soundfile.write(path, wave, SAMPLE_RATE, format="WAV")
            output.publish(path, f"{key}.{ending}")


if __name__ == "__main__":
    flags.run(main)
