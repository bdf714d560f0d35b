"""A piece of a recording: its samples, as they are decoded, checked, measured and written."""

import numpy as np

from pipeline.ingest.cutting.flac import FlacWriter
from pipeline.ingest.cutting.measures import Measures
from pipeline.ingest.cutting.sound_hash import SoundHash
from pipeline.ingest.filters import Filters
from pipeline.ingest.sources import Entry
from tokenizer.audio.mixing import Mixer
from tokenizer.audio.reasons import NOT_FINITE, AudioError

NO_CHANNEL = "no_such_channel"


class Piece:
    """A part of a recording that is wanted: its samples are added as they are decoded.

    key, entry: of the sample. rate: of the recording. start, end: in samples of the recording; an
    end of None is its last. channel: from 0, or None for the mean of all. flac: the samples, where
    they are written. samples: so far. values, sound: what filters measured and a hash of the sound,
    once it is finished. problem: why it is rejected, or None.
    """

    def __init__(
        self,
        key: str,
        entry: Entry,
        *,
        rate: int,
        start: int,
        end: int | None,
        channel: int | None,
        filters: Filters,
        hashed: bool = False,
    ) -> None:
        self.key, self.entry, self.rate = key, entry, rate
        self.start, self.end, self.channel = start, end, channel
        self.flac: FlacWriter | None = None
        self.problem: str | None = None
        self.samples = 0
        self.values: dict[str, float] = {}
        self._mixer, self._filters = Mixer(), filters
        self._measures = Measures(rate, filters.measured)
        self._hash = SoundHash(rate) if hashed else None
        self.sound: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it has all of the recording's length, if not all of its channels."""
        return self.start == 0 and self.end is None

    @property
    def is_segment(self) -> bool:
        """Whether it was cut from a recording of which all is wanted."""
        return self.entry.all_of_it and not self.whole

    def add(self, block: np.ndarray) -> None:
        """The next samples, (n, channels) float32."""
        self.samples += len(block)
        if self.problem is not None:
            return
        try:
            mono = self._mono(block)
            self._measures.add(mono)
            if self._hash is not None:
                self._hash.add(mono)
            if self.flac is not None:
                self.flac.write(mono)
        except AudioError as error:
            self.reject(error.reason)

    def finish(self) -> None:
        """Its last sample was added."""
        try:
            self._mixer.check()
        except AudioError as error:
            self.reject(error.reason)
        if self.problem is None:
            self.sound = self._hash.value() if self._hash is not None else None
            self.values = self._measures.values()
            self.problem = self._filters.of_sound(self.samples / self.rate, self.values)
        if self.flac is not None:
            self.flac.finish()

    def reject(self, reason: str) -> None:
        """It cannot be a sample."""
        self.problem = self.problem or reason

    def close(self) -> None:
        """Let go of its samples."""
        if self.flac is not None:
            self.flac.close()

    def _mono(self, block: np.ndarray) -> np.ndarray:
        if self.channel is None:
            return self._mixer.mix(block)
        if self.channel >= block.shape[1]:
            raise AudioError(NO_CHANNEL, f"channel {self.channel} of {block.shape[1]}")
        mono = block[:, self.channel]
        if not np.isfinite(mono).all():
            raise AudioError(NOT_FINITE)
        return mono
