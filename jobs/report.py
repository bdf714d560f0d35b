"""Show an OUTPUT of tokens, and a language model, in one HTML file that opens without a network.

Totals and rejects, durations, codes by frequency, throughput; samples to see and to hear, and what
a unit sounds like. Original sound comes from where the inputs of the tokens were, or from --audio;
resynthesis from the tokenizer's vocoder. With --lm, curves of the training and bits by position;
with --figures, what jobs/evaluate.py measured, beside what others have published; with
--continuations, prompts and what follows. What is drawn depends on --seed alone.
Exit status: 0 done; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.viewing import report as reporting


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/report.py --tokens out/demo/tokens --lm out/demo/lm/model "
        "--continuations out/demo/continued --output out/demo/report.html",
    )
    reporting.add_report(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, one page out."""
    args = parse()
    from lm.evaluation.figure_files import read_figures
    from lm.evaluation.heard import read_continuations
    from lm.evaluation.learning import bits_by_position, read_log
    from pipeline.cluster.progress import bar
    from pipeline.report import lm_sections, token_sections
    from pipeline.report.accuracy_chart import Accuracy
    from pipeline.report.build import ReportSettings, token_page
    from pipeline.report.sounds import given_inputs
    from tokenizer.storage.token_folder import TokenFolder

    folder, name = reporting.open_page(args.output)
    tokens = TokenFolder.open(args.tokens, argument="tokens")
    device = flags.chosen_device(args)
    inputs = None
    if args.audio:
        with flags.naming("--audio", args.audio[0]):
            inputs = given_inputs(args.audio, tokens.names)
    files, notes = reporting.find_tokenizer(args.tokenizer, tokens)
    figures = read_figures(args.figures)
    tasks = figures.tasks()
    model, log = None, []
    if args.lm:
        model, _ = flags.read_model(args.lm, device, "fp32")
        with flags.naming("--tokens", args.tokens):
            tokens.check_tokenizer(model.config.tokenizer, "the model's")
        log = read_log(args.lm)
    heard = None
    if args.continuations:
        heard = read_continuations(args.continuations, most=args.samples, seed=args.seed)
    settings = ReportSettings(samples=args.samples, seed=args.seed, inputs=inputs, codes=args.codes)
    with bar("read", "reports", len(tokens.names)) as line:
        page, read = token_page(
            tokens, files, settings, device=device, notes=notes, show=line.update
        )
    if log:
        lm_sections.add_curves(page, log)
    if model and read.some:
        with flags.naming("--lm", args.lm):
            by_position = bits_by_position(model, read.some)
        lm_sections.add_positions(page, **vars(by_position))
    if tasks:
        shown = [(pairs, [Accuracy(**vars(task)) for task in found]) for pairs, found in tasks]
        lm_sections.add_accuracies(page, shown, reporting.about_published(tasks))
    if heard:
        lm_sections.add_continuations(page, *heard)
    if rows := figures.rows():
        lm_sections.add_figures(page, rows)
    token_sections.add_origin(page, tokens.folder)
    page.publish(folder, name)
    reporting.print_notes([*notes, *(heard[1] if heard else [])], bool(args.lm and not log))
    print(f"written to {args.output}")
    return 0


if __name__ == "__main__":
    flags.run(main)
