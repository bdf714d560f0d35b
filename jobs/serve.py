"""Serve a page to speak into: tokens, their sound and a language model's continuation, at once.

Tokens appear while you speak, with a causal tokenizer, and after you stop with any other. Their
sound plays back, where the tokenizer has a vocoder. With a language model, a continuation plays
while it is generated. The page is at 127.0.0.1, for this machine alone, and needs no network; it
takes files too. Tokens are made in fp32. Exit status: 2 unusable arguments; 130 after Ctrl-C.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.generation import NO_VOCODER


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/serve.py --lm out/lm/model\n"
        "python jobs/serve.py --tokenizer wavlm-tiny-d1024 --port 8800",
    )
    parser.add_argument("--lm", metavar="URL", help="the model/ that jobs/train_lm.py wrote")
    parser.add_argument(
        "--tokenizer",
        metavar="URL",
        help="one that ships, or a folder or URL; with --lm: the model's own, with a vocoder "
        "(default: the one in --lm)",
    )
    where = parser.add_argument_group("where and how it runs")
    where.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    where.add_argument(
        "--port", type=flags.count, default=8765, help="0: any that is free (default: %(default)s)"
    )
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the language model; auto: bf16 if the machine has fast bf16 "
        "(default: %(default)s)",
    )
    args = parser.parse_args()
    if not args.lm and not args.tokenizer:
        parser.error("give --lm, --tokenizer or both")
    return args


def main() -> int:
    """Flags in, a page until Ctrl-C."""
    args = parse()
    from jobs.serving.app import listen, make_app, server_of
    from jobs.serving.models import ServedModels
    from lm.continuation import check_tokenizer
    from lm.generation import Generator
    from tokenizer.tokenizer import Tokenizer

    device, precision = flags.device_and_precision(args)
    with listen(args.host, args.port) as listener:
        files = flags.read_tokenizer(args.tokenizer) if args.tokenizer else None
        generator = None
        if args.lm:
            model, trained_on = flags.read_model(args.lm, device, precision)
            generator = Generator(model)
            if files:
                with flags.naming("--tokenizer", args.tokenizer):
                    check_tokenizer(files, trained_on)
            files = files or trained_on
        if files is None:
            problem = "it has no tokenizer: it was trained on imported tokens"
            raise flags.unusable("--lm", args.lm, problem, remedy="give another")
        name = args.tokenizer or f"{args.lm.rstrip('/')}/tokenizer"
        with flags.naming("--tokenizer" if args.tokenizer else "--lm", name):
            models = ServedModels(Tokenizer(files, device), generator, args.lm or name)
        if models.whole:
            print(f"{models.whole}: tokens come when the speaker stops", file=sys.stderr)
        if not files.vocoder:
            print(NO_VOCODER.format(tokenizer=name), file=sys.stderr)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"speak at http://{shown}:{port}/ (Ctrl-C ends it)", flush=True)
        try:
            server_of(make_app(models, args.host)).run(sockets=[listener])
        finally:
            models.close()
    return 0


if __name__ == "__main__":
    flags.run(main)
