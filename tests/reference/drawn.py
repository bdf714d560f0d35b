"""What reference vectors are made of: weights drawn by name, and a recording.

A reference file holds names and shapes of a checkpoint's tensors, not their values. Whoever makes
the file and whoever tests with it draw the same values from the names.
"""

import io
import json
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

REFERENCE = Path(__file__).resolve().parent
SPEECH = REFERENCE.parent / "speech" / "speech-000000.tar"
# Ends of names whose values are near one: norms, activations, gates, factors.
NEAR_ONE = ("norm.weight", "alpha", "gru_rel_pos_const", "gamma")


def drawn(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """fp32 weights of these shapes, each drawn from its name; speech then gives varied tokens."""
    return {name: torch.from_numpy(_draw(name, shape)) for name, shape in shapes.items()}


def _draw(name: str, shape: list[int]) -> np.ndarray:
    if name == "quantizer.mask":  # what bits are worth, not a weight
        return 1 << np.arange(shape[0])[::-1].copy()
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(NEAR_ONE):
        values = 1 + 0.2 * noise
    elif len(shape) == 1:
        values = 0.1 * noise
    elif name.endswith("embedding.weight") and len(shape) == 2:
        values = noise
    else:
        values = noise / math.sqrt(math.prod(shape[1:]))
    if name.startswith("decoder.head"):
        values *= 0.3  # samples within -1 and 1
    return values.astype(np.float32)


def speech(samples: int) -> np.ndarray:
    """(n,) float32 at 16 kHz: a second into the first recording of tests/speech."""
    with tarfile.open(SPEECH) as tar:
        name = next(name for name in sorted(tar.getnames()) if name.endswith(".flac"))
        member = tar.extractfile(name)
        assert member is not None
        wave, rate = soundfile.read(io.BytesIO(member.read()), dtype="float32")
    assert rate == 16_000 and len(wave) >= 16_000 + samples
    return wave[16_000 : 16_000 + samples]


def read_reference(name: str) -> tuple[dict, dict[str, Tensor]]:
    """What NAME.json holds, and its checkpoint's weights."""
    reference = json.loads((REFERENCE / f"{name}.json").read_text())
    return reference, drawn(reference["tensors"])


def write_reference(name: str, values: dict) -> None:
    """Write NAME.json, one line a tensor."""
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in values.items() if key != "tensors"]
    tensors = [f'    "{key}": {json.dumps(shape)}' for key, shape in values["tensors"].items()]
    lines.append('  "tensors": {\n' + ",\n".join(tensors) + "\n  }")
    (REFERENCE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
