"""Mono audio → FLAC: exact for 16-bit sound, with 24 bits for everything else."""

import tempfile
from typing import BinaryIO, cast

import numpy as np
import soundfile

from pipeline.shards.samples import SPOOL_BYTES

FULL_SCALE_16 = np.float32(1 << 15)
BLOCK_SAMPLES = 1 << 16


class FlacWriter:
    """A mono FLAC that is written block by block, in memory or, when it is long, on local disk.

    It has 16 bits as long as every sample is one of 16 bits, and 24 from the first that is not.
    """

    def __init__(self, sample_rate: int) -> None:
        self.rate, self.bits, self.samples = sample_rate, 16, 0
        self.file, self._sound = self._new()

    def write(self, block: np.ndarray) -> None:
        """Append samples, (n,) float32; what is beyond [-1, 1] is clipped."""
        if self.bits == 16:
            steps = block * FULL_SCALE_16
            if not np.array_equal(steps, np.rint(steps)):
                self._widen()
        self._sound.write(block)
        self.samples += len(block)

    def finish(self) -> None:
        """Write the end; then `file` holds the FLAC, `size` bytes from its start."""
        self._sound.close()
        self.size = self.file.seek(0, 2)
        self.file.seek(0)

    def close(self) -> None:
        """Let go of the file."""
        self._sound.close()
        self.file.close()

    def _new(self) -> tuple[BinaryIO, soundfile.SoundFile]:
        file = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))  # noqa: SIM115
        subtype = f"PCM_{self.bits}"
        return file, soundfile.SoundFile(
            file, "w", self.rate, channels=1, subtype=subtype, format="FLAC"
        )

    def _widen(self) -> None:
        """Go on with 24 bits; what was written is copied, exactly."""
        before = self.file
        self._sound.close()
        before.seek(0)
        self.bits = 24
        self.file, self._sound = self._new()
        if self.samples:
            with soundfile.SoundFile(before) as written:
                for block in written.blocks(BLOCK_SAMPLES, dtype="float32"):
                    self._sound.write(block)
        before.close()
