"""Flags of jobs/plan.py, and the table it prints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.cli.parser import not_negative, positive, positive_number

if TYPE_CHECKING:
    from pipeline.capacity.plan import Plan, PlanSettings
    from pipeline.capacity.prices import Prices


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The flags of PlanSettings, --rates, --prices and --json."""
    given = "default: %(default)s"
    parser.add_argument("--hours", type=positive_number, required=True, help="of speech")
    parser.add_argument(
        "--encoder", default="wavlm-large", help=f"wavlm-large, -base-plus, -base, -tiny ({given})"
    )
    parser.add_argument("--layer", type=positive, default=6, help=f"whose features ({given})")
    parser.add_argument(
        "--container",
        default="flac16",
        help="of the input: flac16 or wav16 (16 kHz), flac44 (44.1 kHz), mp3, ogg, opus, or any "
        f"that the rates have ({given})",
    )
    parser.add_argument("--gpu", default="h100", help=f"h100, h200, a100, l40s or l4 ({given})")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help=given)
    nodes = parser.add_argument_group("nodes")
    nodes.add_argument("--gpus-per-node", type=positive, default=8, help=given)
    nodes.add_argument("--cores-per-node", type=positive, default=192, help=given)
    nodes.add_argument(
        "--deadline-days",
        type=positive_number,
        help="for tokens and language model together (default: as long as one node takes)",
    )
    nodes.add_argument(
        "--busy", type=share, default=0.9, help=f"share of the time that a GPU computes ({given})"
    )
    nodes.add_argument(
        "--share-of-peak",
        type=share,
        help="of the GPU's bf16 peak that encoding reaches (default: as measured, and for a GPU "
        "that was not measured, as on an H100)",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--utterance-seconds", type=positive_number, default=12, help=f"of a mean one ({given})"
    )
    data.add_argument(
        "--shard-gb", type=positive_number, default=1, help=f"of an input tar ({given})"
    )
    model = parser.add_argument_group("the language model")
    model.add_argument(
        "--frames-per-token", type=int, choices=(1, 2, 4), default=1, help=f"of 20 ms ({given})"
    )
    model.add_argument("--lm-preset", default="large", help=f"that is trained ({given})")
    model.add_argument(
        "--epochs", type=not_negative, default=1, help=f"over all tokens; 0: no model ({given})"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--rates",
        metavar="FILE",
        help="measured rates that replace those that ship: the benches write it",
    )
    files.add_argument("--prices", metavar="FILE", help="JSON: see docs/performance.md")
    files.add_argument("--json", metavar="FILE", help="write all figures to this file too")


def share(text: str) -> float:
    """A number over zero, at most 1."""
    value = positive_number(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is over 1")
    return value


def settings_of(args: argparse.Namespace) -> PlanSettings:
    """From the flags of add_plan."""
    from pipeline.capacity.plan import PlanSettings

    return PlanSettings(
        hours=args.hours,
        encoder=args.encoder,
        layer=args.layer,
        container=args.container,
        gpu=args.gpu,
        precision=args.precision,
        gpus_per_node=args.gpus_per_node,
        cores_per_node=args.cores_per_node,
        deadline_days=args.deadline_days,
        utterance_seconds=args.utterance_seconds,
        shard_gb=args.shard_gb,
        busy=args.busy,
        share_of_peak=args.share_of_peak,
        frames_per_token=args.frames_per_token,
        lm_preset=args.lm_preset,
        epochs=args.epochs,
    )


def print_plan(plan: Plan, settings: PlanSettings, prices: Prices | None) -> None:
    """The table, and every assumption."""
    f = plan.figures
    gpu, nodes = settings.gpu, int(f["nodes"])
    print(
        f"{settings.hours:,.0f} h of {settings.container}, {settings.encoder} to layer "
        f"{settings.layer} in {settings.precision}, on nodes of {settings.gpus_per_node} {gpu} and "
        f"{settings.cores_per_node} cores"
    )
    limit = "the GPUs" if plan.limit == "encode" else "decoding: the node has too few cores"
    row("encoding", f"{f['gpu_times_real_time']:,.0f} x real time on one {gpu}")
    row("", f"{f['gflop_per_second_of_audio']:.1f} GFLOP for a second of audio")
    row("cores", f"{f['cores_per_gpu']:.0f} for one {gpu}, to keep it busy")
    row("one node", f"{f['node_times_real_time']:,.0f} x real time; limited by {limit}")
    row("", f"{f['node_day_audio_hours']:,.0f} h of audio a day")
    row("", f"reads {f['node_read_bytes_per_second'] / 1e6:,.0f} MB a second")
    row("tokens", f"{f['tokenize_gpu_hours']:,.1f} {gpu} hours")
    row("", f"{f['decode_core_hours']:,.1f} core hours of decoding")
    if settings.epochs:
        row("language model", f"{f['train_gpu_hours']:,.1f} {gpu} hours")
    row("nodes", f"{nodes:,}, for {duration(f['elapsed_hours'])}:")
    row("", f"{duration(f['tokenize_hours'])} tokens")
    if f["driver_seconds"]:
        row("", f"of which {duration(f['driver_seconds'] / 3600)} is the least the driver needs")
    if f["manifest_seconds"]:
        row("", f"{duration(f['manifest_seconds'] / 3600)} manifest")
    if settings.epochs:
        row("", f"{duration(f['train_hours'])} language model")
    row("input", f"{size(f['input_bytes'])} in {f['shards']:,.0f} tars")
    row("", f"{f['utterances']:,.0f} utterances")
    row("output", f"{f['tokens']:,.0f} tokens")
    row("", f"{size(f['token_shard_bytes'])} of token shards")
    row("", f"{size(f['report_bytes'])} of reports and manifest")
    row("requests", f"{f['read_requests']:,.0f} to read, {f['write_requests']:,.0f} to write")
    if prices:
        row("cost", f"{f['cost']:,.2f} {prices.currency}")
        for name in ("gpus", "storage_month", "read_requests", "write_requests", "transfer"):
            if f"cost_{name}" in f:
                row("", f"{f[f'cost_{name}']:,.2f} {name.replace('_', ' ')}")
    print("\nassumptions:")
    for text in plan.assumptions:
        print(f"* {text}")


def row(name: str, text: str) -> None:
    """One line of the table."""
    print(f"  {name:<16}{text}")


def duration(hours: float) -> str:
    """In the unit that suits it."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:,.1f} min" if hours >= 1 / 60 else f"{3600 * hours:,.1f} s"


def size(value: float) -> str:
    """Bytes, in GB or TB."""
    return f"{value / 1e12:,.2f} TB" if value >= 1e12 else f"{value / 1e9:,.2f} GB"
