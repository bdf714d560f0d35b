"""What a clustering over all frames goes on from after a kill."""

import json
from dataclasses import dataclass, field

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder

STATE, LOG = "training/kmeans.safetensors", "training/log.jsonl"


@dataclass
class LloydState:
    """What a run goes on from.

    tensors: of the tokenizer. log: a line for each pass. batch_seconds: of audio in a batch, where
    the run found them itself on a GPU, on which the last bit of a feature may depend on its batch.
    """

    tensors: dict[str, np.ndarray]
    log: list[dict] = field(default_factory=list)
    batch_seconds: float | None = None

    @property
    def codes(self) -> np.ndarray:
        """(K, D) fp32, as the last pass left them."""
        return self.tensors["codebook.codes"]

    @property
    def next_pass(self) -> int:
        """The number of the pass to make, from 1."""
        return len(self.log) + 1

    def done(self, passes: int) -> bool:
        """Whether so many passes were made, or codes no longer move."""
        return len(self.log) >= passes or bool(self.log and self.log[-1]["converged"])

    def save(self, output: Folder) -> None:
        """Publish it below the output, whole or not at all."""
        with scratch_folder() as scratch:
            path = scratch / "state"
            save_file(self.tensors, path, {"state": json.dumps([self.log, self.batch_seconds])})
            output.publish(path, STATE)
        output.publish_text("".join(json.dumps(line) + "\n" for line in self.log), LOG)

    @classmethod
    def load(cls, output: Folder) -> "LloydState | None":
        """What is there; None before the first pass."""
        try:
            data = output.read_bytes(STATE)
        except FileNotFoundError:
            return None
        with scratch_folder() as scratch:
            path = scratch / "state"
            path.write_bytes(data)
            with safe_open(path, "numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(tensors, *json.loads(file.metadata()["state"]))
