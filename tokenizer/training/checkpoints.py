"""Checkpoints of a training, and its log.

A training's folder holds

    checkpoints/step-N.safetensors   the newest few
    log.jsonl                        a line every few steps
    events.out.tfevents.0.wavmill    the log for TensorBoard

A checkpoint is a safetensors file. Its tensors are `model.NAME` (trainable parameters, and buffers
that training changes) and `KEY.NAME` (an optimizer's state of a parameter, such as `exp_avg.NAME`);
frozen parameters are left out. Its metadata are the step, the position in the data and the log, so
a checkpoint and its log always end at the same step. No random state is stored: the loop seeds
every step anew.
"""

import json
from collections.abc import Iterator

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from tokenizer.storage.file_stream import copy_whole
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder

CHECKPOINTS, LOG, EVENTS = "checkpoints", "log.jsonl", "events.out.tfevents.0.wavmill"
# The only checkpoint of a training that began before there was one layout for all.
EARLIER_CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    folder: Folder,
    model: nn.Module,
    *,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    data: dict,
    lines: list[dict],
    keep: int,
    buffers: tuple[str, ...] = (),
) -> None:
    """Publish a checkpoint, the log and TensorBoard's events; delete all but the `keep` newest.

    data: the position in the data. buffers: prefixes of buffers that training changes.
    """
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters() if p.requires_grad}
    tensors = {f"model.{name}": parameter for parameter, name in names.items()}
    tensors |= {f"model.{name}": value for name, _, value in _buffers(model, buffers)}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            tensors |= {f"{key}.{names[parameter]}": value for key, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"step": str(step), "data": json.dumps(data), "log": json.dumps(lines)}
    with scratch_folder() as scratch:
        path = scratch / "checkpoint"
        save_file(tensors, path, about)
        folder.publish(path, f"{CHECKPOINTS}/step-{step}.safetensors")
    folder.publish_text("".join(json.dumps(line) + "\n" for line in lines), LOG)
    _publish_events(folder, lines)
    for old in checkpoint_steps(folder)[:-keep]:
        folder.remove(f"{CHECKPOINTS}/step-{old}.safetensors")


def checkpoint_steps(folder: Folder) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    names = folder.names(CHECKPOINTS, ".safetensors")
    return sorted(int(name.removeprefix("step-")) for name in names)


def check_layout(folder: Folder) -> None:
    """Raises UsageError if the folder holds an unfinished training of the earlier layout."""
    if folder.fs.exists(folder.path(EARLIER_CHECKPOINT)) and not checkpoint_steps(folder):
        raise folder.refused(
            "it holds an unfinished training of an earlier version, whose checkpoint "
            f"{EARLIER_CHECKPOINT} this version cannot continue",
            "finish it with the version that began it, or give another output folder",
        )


def load_checkpoint(
    folder: Folder,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    *,
    buffers: tuple[str, ...] = (),
) -> tuple[int, dict, list[dict]]:
    """Load the newest checkpoint in place. Returns its step, data position and log.

    Without a checkpoint they are 0, {} and []; else the position has the step too, as "step".
    Raises UsageError for a checkpoint of the earlier layout.
    """
    check_layout(folder)
    steps = checkpoint_steps(folder)
    if not steps:
        return 0, {}, []
    with scratch_folder() as scratch:
        path = scratch / "checkpoint"
        newest = folder.path(f"{CHECKPOINTS}/step-{steps[-1]}.safetensors")
        copy_whole(folder.fs, newest, path)
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, module, value in list(_buffers(model, buffers)):
        # Replaced, not copied into: a buffer of recent latents grows.
        stored = tensors.pop(f"model.{name}").to(value.device)
        setattr(module, name.rpartition(".")[2], stored)
    parameters = dict(model.named_parameters())
    optimizer_of = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, tensor in tensors.items():
        kind, _, parameter_name = name.partition(".")
        parameter = parameters[parameter_name]
        if kind == "model":
            with torch.no_grad():
                parameter.copy_(tensor)
        else:
            # A fused AdamW needs its step count on the device of the weights.
            optimizer_of[parameter].state[parameter][kind] = tensor.to(parameter.device)
    position = {"step": int(about["step"]), **json.loads(about["data"])}
    return position["step"], position, json.loads(about["log"])


def _buffers(
    model: nn.Module, prefixes: tuple[str, ...]
) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, its module, value) of all buffers whose name begins with one of the prefixes."""
    for name, value in model.named_buffers():
        if name.startswith(prefixes):
            yield name, model.get_submodule(name.rpartition(".")[0]), value


def _publish_events(folder: Folder, lines: list[dict]) -> None:
    """Write the whole log as one TensorBoard file of a fixed name.

    Each step is in it once, however often the training was killed, on any filesystem.
    """
    with scratch_folder() as scratch:
        writer = SummaryWriter(str(scratch))
        for line in lines:
            for name, value in line.items():
                if name not in ("step", "time"):
                    writer.add_scalar(name, value, line["step"], walltime=line["time"])
        writer.close()
        (written,) = scratch.iterdir()
        folder.publish(written, EVENTS)
