"""Long recordings at 16 kHz on local disk: they are decoded once, to be measured and then cut."""

import os
import tempfile
from collections.abc import Iterator

import numpy as np

from tokenizer.errors import is_disk_full

# Most bytes that are kept of a recording: five hours of float32. Of a longer one nothing is, and it
# is decoded again.
MOST_BYTES = 1 << 30
# Samples that are read at once.
BLOCK_SAMPLES = 1 << 19


class SampleFile:
    """A recording's samples, all int16 or all float32, in a file without a name.

    It goes with this object, or with the process.
    """

    def __init__(self, kind: np.dtype) -> None:
        """Raises OSError where no temporary file can be made."""
        self._file, self._kind, self._bytes = tempfile.TemporaryFile(), kind, 0  # noqa: SIM115

    def write(self, block: np.ndarray) -> bool:
        """Add (n,) samples. Returns whether they are kept: there may be no room, or too many."""
        if block.dtype != self._kind or self._bytes + block.nbytes > MOST_BYTES:
            return False
        try:
            self._file.write(np.ascontiguousarray(block).data)
            self._file.flush()
        except OSError as error:
            if not is_disk_full(error):
                raise
            return False
        self._bytes += block.nbytes
        return True

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples in order, from the first; they cannot be written to."""
        step = BLOCK_SAMPLES * self._kind.itemsize
        for start in range(0, self._bytes, step):
            yield np.frombuffer(os.pread(self._file.fileno(), step, start), self._kind)
