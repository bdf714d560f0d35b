"""Checkpoints of a training, each whole or not there, and what is shown of it.

A checkpoint holds the log as well, so that both end at one step however the training was ended. It
is a safetensors file: weights, the optimizers' state, and as metadata the step, the position in the
data and the log. There is no state of random numbers: they are drawn anew from the seed in every
step.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tensorboardX import SummaryWriter
from torch import nn

CHECKPOINTS, EVENTS = "checkpoints", "events.out.tfevents.0.wavmill"


def save_checkpoint(
    folder,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    data: dict,
    lines: list[dict],
    keep: int,
) -> None:
    """Publish checkpoints/step-N.safetensors, the log, and TensorBoard's events; keep the newest.

    folder: a pipeline.storage.Folder. data: the position in the data. What is frozen is left out.
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    tensors = {f"model.{name}": parameter for parameter, name in names.items()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            tensors |= {f"{key}.{names[parameter]}": value for key, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"step": str(step), "data": json.dumps(data), "log": json.dumps(lines)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "checkpoint"
        save_file(tensors, path, about)
        folder.publish(path, f"{CHECKPOINTS}/step-{step}.safetensors")
    folder.publish_text("".join(json.dumps(line) + "\n" for line in lines), "log.jsonl")
    _publish_events(folder, lines)
    for old in checkpoint_steps(folder)[:-keep]:
        folder.fs.rm_file(folder.path(f"{CHECKPOINTS}/step-{old}.safetensors"))


def checkpoint_steps(folder) -> list[int]:
    """The steps of which there are checkpoints, rising."""
    names = folder.names(CHECKPOINTS, ".safetensors")
    return sorted(int(name.removeprefix("step-")) for name in names)


def load_checkpoint(
    folder, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict, list[dict]]:
    """Load the newest checkpoint, if any, in place. Returns its step, data position and log."""
    steps = checkpoint_steps(folder)
    if not steps:
        return 0, {"rows": 0}, []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "checkpoint"
        folder.fs.get_file(folder.path(f"{CHECKPOINTS}/step-{steps[-1]}.safetensors"), str(path))
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parameters = dict(model.named_parameters())
    owners = {
        p: optimizer
        for optimizer in optimizers
        for g in optimizer.param_groups
        for p in g["params"]
    }
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition(".")
        owner = parameters[parameter]
        if kind == "model":
            with torch.no_grad():
                owner.copy_(tensor)
        else:
            # A fused AdamW wants its count of steps beside the weights.
            owners[owner].state[owner][kind] = tensor.to(owner.device)
    return int(about["step"]), json.loads(about["data"]), json.loads(about["log"])


def _publish_events(folder, lines: list[dict]) -> None:
    """The log as TensorBoard reads it: one file, written anew, that begins as it did before.

    So it has every step once however often the training was killed, on any filesystem.
    """
    with tempfile.TemporaryDirectory() as scratch:
        writer = SummaryWriter(scratch)
        for line in lines:
            for name, value in line.items():
                if name not in ("step", "time"):
                    writer.add_scalar(name, value, line["step"], walltime=line["time"])
        writer.close()
        (written,) = Path(scratch).iterdir()
        folder.publish(written, EVENTS)
