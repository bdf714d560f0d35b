"""Hours of audio → hours of GPUs, cores, nodes, storage, tokens and money, with the assumptions."""

import math
from dataclasses import dataclass, field

from pipeline.capacity.hardware import peak, shape
from pipeline.capacity.prices import Prices
from pipeline.capacity.rates import Rate
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError

# What was measured, whose share of the peak is taken where nobody has measured.
ENCODER, LAYER, GPU = "wavlm-large", 6, "h100"
# Names that one request of a listing gives.
LISTED = 1000
# Bytes of an input that one request gets.
READ_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is to be planned.

    utterance_seconds: of a mean utterance. shard_gb: of an input tar, in 10^9 bytes. busy: share of
    the time in which a GPU computes. share_of_peak: of GPUs that were not measured; None takes what
    was measured on an H100. frames_per_token: 1, 2 or 4. lm_preset, epochs: of the language model;
    0 epochs leave it out. deadline_days: for tokens and model together; None plans one node.
    """

    hours: float
    encoder: str
    layer: int
    container: str
    gpu: str
    precision: str = "bf16"
    gpus_per_node: int = 8
    cores_per_node: int = 192
    deadline_days: float | None = None
    utterance_seconds: float = 12.0
    shard_gb: float = 1.0
    busy: float = 0.9
    share_of_peak: float | None = None
    frames_per_token: int = 1
    lm_preset: str = "large"
    epochs: float = 1.0
    code_bytes: int = 2


@dataclass
class Plan:
    """What the run takes. figures: by name. assumptions: sentences, in the order of their use."""

    figures: dict[str, float] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    limit: str = "encode"

    def assume(self, text: str) -> None:
        """Note one more."""
        self.assumptions.append(text)


def make_plan(settings: PlanSettings, rates: dict[str, Rate], prices: Prices | None = None) -> Plan:
    """Plan a run. Raises UsageError for an encoder, layer, container or GPU that is not known."""
    plan = Plan()
    seconds = settings.hours * 3600
    speed = _encoding(plan, settings, rates)
    decode = _container_rate(rates, "decode", settings.container)
    plan.assume(f"decoding {settings.container} on one core: {decode}")
    _nodes(plan, settings, seconds=seconds, speed=speed, decode=decode.value)
    _language_model(plan, settings, rates, seconds=seconds)
    _storage(plan, settings, rates, seconds=seconds)
    _deadline(plan, settings)
    if prices:
        _money(plan, settings, prices)
    return plan


def _container_rate(rates: dict[str, Rate], kind: str, container: str) -> Rate:
    found = rates.get(f"{kind}/{container}")
    if found is None:
        known = sorted(name.removeprefix("decode/") for name in rates if name.startswith("decode/"))
        raise UsageError(
            f"there is no rate {kind}/{container}",
            f"give one of {', '.join(known)}, or a file of rates that has it",
            value=container,
            argument="container",
        )
    return found


def _encoding(plan: Plan, settings: PlanSettings, rates: dict[str, Rate]) -> float:
    """Seconds of audio that one GPU encodes in a second."""
    config, most = shape(settings.encoder, settings.layer), peak(settings.gpu)
    flops = config.flops_per_second(settings.utterance_seconds)
    plan.figures["gflop_per_second_of_audio"] = flops / 1e9
    encoder = settings.encoder.removeprefix("microsoft/")
    key = f"encode/{encoder}/{settings.layer}/{settings.precision}/{settings.gpu}"
    if settings.share_of_peak is None and key in rates:
        plan.assume(f"encoding on one {settings.gpu}, measured: {rates[key]}")
        return rates[key].value
    share = settings.share_of_peak
    if share is None:
        measured = rates[f"encode/{ENCODER}/{LAYER}/{settings.precision}/{GPU}"]
        per_second = shape(ENCODER, LAYER).flops_per_second(settings.utterance_seconds)
        share = measured.value * per_second / peak(GPU)
        why = f"what {ENCODER}'s {LAYER} layers reach on one {GPU} ({measured})"
    else:
        why = "as given"
    plan.assume(
        f"ASSUMED, since nobody has measured {key}: {flops / 1e9:.1f} GFLOP a second of audio at "
        f"{100 * share:.2g} % of {most / 1e12:.0f} TFLOP/s, the peak in dense bf16 of its data "
        f"sheet, which nobody has measured either; the share is {why}"
    )
    return share * most / flops


def _nodes(
    plan: Plan, settings: PlanSettings, *, seconds: float, speed: float, decode: float
) -> None:
    """Hours of GPUs and cores, and what one node does."""
    wanted = speed * settings.busy
    plan.assume(
        f"ASSUMED, as no cluster has shown it: a GPU computes {100 * settings.busy:.0f} % of the "
        "time"
    )
    plan.assume("an encoder takes one core beside those that decode")
    cores = settings.cores_per_node - settings.gpus_per_node
    if cores < 1:
        raise UsageError(
            f"{settings.gpus_per_node} encoders take a core each, and none is left to decode",
            "give the cores of a node",
            value=settings.cores_per_node,
            argument="cores_per_node",
        )
    by_gpus, by_cores = settings.gpus_per_node * wanted, cores * decode
    node = min(by_gpus, by_cores)
    plan.limit = "encode" if by_gpus <= by_cores else "decode"
    hours = seconds / node / 3600
    plan.figures |= {
        "gpu_times_real_time": wanted,
        "cores_per_gpu": math.ceil(wanted / decode) + 1,
        "node_times_real_time": node,
        "tokenize_node_hours": hours,
        "tokenize_gpu_hours": hours * settings.gpus_per_node,
        "decode_core_hours": seconds / decode / 3600,
    }


def _language_model(
    plan: Plan, settings: PlanSettings, rates: dict[str, Rate], *, seconds: float
) -> None:
    tokens = seconds * FRAMES_PER_SECOND / settings.frames_per_token
    plan.figures["tokens"] = tokens
    plan.figures["train_gpu_hours"] = 0.0
    if not settings.epochs:
        return
    key = f"train/{settings.lm_preset}/bf16/{settings.gpu}"
    if key in rates:
        speed = rates[key].value
        plan.assume(f"training on one {settings.gpu}, measured: {rates[key]}")
    else:
        measured = rates.get(f"train/{settings.lm_preset}/bf16/{GPU}")
        if measured is None:
            raise UsageError(
                f"there is no rate {key}",
                "give a file of rates that has it, or leave the language model out",
                value=settings.lm_preset,
                argument="lm_preset",
            )
        speed = measured.value * peak(settings.gpu) / peak(GPU)
        plan.assume(
            f"ASSUMED, since nobody has measured {key}: {speed:,.0f} tokens a second, as one {GPU} "
            f"({measured}) by the ratio of the peaks in dense bf16 of their data sheets, "
            f"{peak(settings.gpu) / 1e12:.0f} to {peak(GPU) / 1e12:.0f} TFLOP/s"
        )
    plan.assume(
        f"preset {settings.lm_preset}, epochs: {settings.epochs:g}; ASSUMED: more GPUs train as "
        "many times as fast"
    )
    hours = tokens * settings.epochs / speed / settings.busy / 3600
    plan.figures["train_gpu_hours"] = hours


def _storage(plan: Plan, settings: PlanSettings, rates: dict[str, Rate], *, seconds: float) -> None:
    """Bytes and requests of inputs, token shards, reports and manifest."""
    per_second = _container_rate(rates, "bytes", settings.container)
    plan.assume(f"{settings.container}: {per_second}")
    plan.assume(
        f"utterances of {settings.utterance_seconds:g} s, and tars of {settings.shard_gb:g} GB"
    )
    utterances = seconds / settings.utterance_seconds
    tokens = settings.utterance_seconds * FRAMES_PER_SECOND / settings.frames_per_token
    row = rates["manifest/row_bytes"]
    plan.assume(f"a row of a report: {row}")
    read = seconds * per_second.value
    shards = math.ceil(read / (settings.shard_gb * 1e9))
    # A token shard has a header and the codes of each utterance, and a header and its JSON.
    sample = 512 + _blocks(128 + settings.code_bytes * tokens) + 512 + _blocks(250)
    listings = math.ceil(shards / LISTED)
    plan.figures |= {
        "utterances": utterances,
        "shards": shards,
        "input_bytes": read,
        "node_read_bytes_per_second": plan.figures["node_times_real_time"] * per_second.value,
        "token_shard_bytes": utterances * sample,
        "report_bytes": 2 * utterances * row.value,
        "read_requests": read / READ_BYTES + 4 * shards + 2 * listings,
        "write_requests": 2 * shards + 3,
    }
    plan.assume(
        f"a GET for each {READ_BYTES / 2**20:.0f} MiB of input; for each shard a HEAD, and a GET "
        "and a HEAD of its report; a PUT for its tar and one for its report"
    )
    for name, rate in (("driver", "driver/shards"), ("manifest", "manifest/reports")):
        if rate in rates:
            plan.figures[f"{name}_seconds"] = shards / rates[rate].value
            plan.assume(f"{rate}: {rates[rate]}")
        else:
            plan.figures[f"{name}_seconds"] = 0.0
            plan.assume(
                f"ASSUMED: the time for {rate}, which the rates do not have, is not counted"
            )


def _blocks(size: float) -> int:
    """Bytes of a tar's member: whole blocks of 512."""
    return 512 * math.ceil(size / 512)


def _deadline(plan: Plan, settings: PlanSettings) -> None:
    """Nodes for the deadline, and how long tokens and language model take on them."""
    one = plan.figures["tokenize_node_hours"]
    one += plan.figures["train_gpu_hours"] / settings.gpus_per_node
    manifest = plan.figures["manifest_seconds"] / 3600
    nodes = 1
    if settings.deadline_days:
        left = settings.deadline_days * 24 - manifest
        if left <= 0:
            raise UsageError(
                f"the manifest alone takes {manifest:.1f} hours",
                "give more days",
                value=settings.deadline_days,
                argument="deadline_days",
            )
        nodes = math.ceil(one / left)
    plan.figures |= {
        "nodes": nodes,
        "tokenize_hours": plan.figures["tokenize_node_hours"] / nodes,
        "train_hours": plan.figures["train_gpu_hours"] / settings.gpus_per_node / nodes,
        "elapsed_hours": one / nodes + manifest,
        "node_day_audio_hours": plan.figures["node_times_real_time"] * 24,
    }


def _money(plan: Plan, settings: PlanSettings, prices: Prices) -> None:
    """What it costs; a line that the file has no price for is left out, and said."""
    figures = plan.figures
    gpu_hours = figures["tokenize_gpu_hours"] + figures["train_gpu_hours"]
    stored = sum(figures[f"{kind}_bytes"] for kind in ("input", "token_shard", "report")) / 1e9
    amounts = {
        "gpus": (gpu_hours, prices.gpu_hour.get(settings.gpu)),
        "storage_month": (stored, prices.storage_gb_month),
        "read_requests": (figures["read_requests"] / 1000, prices.read_requests),
        "write_requests": (figures["write_requests"] / 1000, prices.write_requests),
        "transfer": (figures["input_bytes"] / 1e9, prices.transfer_gb),
    }
    if settings.gpu not in prices.gpu_hour:
        raise UsageError(
            f"gpu_hour has no {settings.gpu}",
            "add its price",
            value=settings.gpu,
            argument="gpu",
        )
    total = 0.0
    for name, (amount, price) in amounts.items():
        if price is None:
            plan.assume(f"the prices have none for {name}: it is left out of the sum")
            continue
        figures[f"cost_{name}"] = amount * price
        total += amount * price
    figures["cost"] = total
