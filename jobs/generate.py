"""Continue speech prompts with a language model.

Writes OUTPUT/KEY.tokens.npy, the tokens that follow the prompt KEY. Where the tokenizer has a
vocoder, it also writes KEY.wav, their sound, and KEY.joined.wav, the decoded prompt followed by
that sound. With --samples, KEY.1 and so on. The same flags give the same tokens on the same kind of
machine, whatever other prompts there are. Exit status: 0 done; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import time

from jobs.cli import flags
from jobs.cli.generation import NO_VOCODER, add_generation, read_prompts


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/generate.py --lm out/lm/model --prompt recordings/*.flac "
        "--output out/continued\n"
        "python jobs/generate.py --lm out/lm/model --limit 2 --seconds 5 "
        "--prompt-tokens out/tokens/shards/speech-000000.tar --output out/continued",
    )
    add_generation(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, continuations out."""
    args = parse()
    from lm import continuation, prompts
    from lm.generation import Generator, Sampling
    from pipeline.cluster.progress import bar
    from tokenizer.audio.frames import FRAMES_PER_SECOND
    from tokenizer.codec.decoder import Decoding
    from tokenizer.storage.folder import Folder

    device, precision = flags.device_and_precision(args)
    with flags.naming("--top-p", args.top_p, "give one over 0 and up to 1"):
        sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    model, files = flags.read_model(args.lm, device, precision)
    if args.tokenizer:
        given = flags.read_tokenizer(args.tokenizer)
        with flags.naming("--tokenizer", args.tokenizer):
            continuation.check_tokenizer(given, files)
        files = given
    config = model.config
    given_prompts = read_prompts(args, files, config, device=device)
    if args.prompt_seconds:
        given_prompts = [
            prompts.last_seconds(prompt, args.prompt_seconds, config.frames_per_token)
            for prompt in given_prompts
        ]
    generator = Generator(model)
    del model
    with flags.naming("--prompt-tokens" if args.prompt_tokens else "--prompt"):
        prompts.check_prompts(given_prompts, generator)
    output = flags.named("--output", Folder, args.output)
    continuation.check_output(output, given_prompts)
    if args.prompt:
        print("the prompts' tokens were made in fp32", file=sys.stderr)
    decoding = Decoding(files, device) if files and files.vocoder else None
    settings = continuation.ContinuationSettings(
        tokens=prompts.tokens_in(args.seconds, config.frames_per_token),
        samples=args.samples,
        seed=args.seed,
        batch_size=args.batch_size,
        sampling=sampling,
    )
    tokens = settings.tokens * args.samples * len(given_prompts)
    began = time.monotonic()
    with bar("generated", "tokens", tokens) as line:
        count = continuation.continue_prompts(
            generator,
            given_prompts,
            settings=settings,
            output=output,
            decoding=decoding,
            show=line.update,
        )
    length = settings.tokens * config.frames_per_token / FRAMES_PER_SECOND
    print(
        f"{count} continuations of {length:.2f} s, {tokens:,} tokens in "
        f"{time.monotonic() - began:.1f} s ({precision} on {device})"
    )
    if files and not decoding:
        print(NO_VOCODER.format(tokenizer=args.tokenizer or f"{args.lm.rstrip('/')}/tokenizer"))
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    flags.run(main)
