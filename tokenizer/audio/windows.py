"""Long utterances in overlapping windows: each frame is taken where it has context on both sides.

A window of W frames keeps what lies more than `context` frames from its inner edges. The number of
frames is that of a single pass, whatever the length, and an utterance of one window is one pass.
Where a token stands for several frames, windows begin and are cut between tokens.

A causal encoder needs no context after a frame, and all of its past before one. Its windows begin
on the grid of its chunks and keep everything but their first `past` frames, so that in each layer a
kept frame attends to as many frames as in a stream. Those frames have themselves heard less than in
a stream, layer by layer: over one window (30 s) tokens are a stream's, over more nearly all are
(wavlm-tiny's layer 4, 200 s of speech: 99.9 %).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenizer.audio.decoding import Utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND, RECEPTIVE_FIELD, SAMPLES_PER_FRAME


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) go through the encoder; of these, frames [keep_from, keep_to) are kept.

    All four count from the utterance's first frame.
    """

    start: int
    stop: int
    keep_from: int
    keep_to: int

    @property
    def kept(self) -> slice:
        """The kept frames, counted from the window's own start."""
        return slice(self.keep_from - self.start, self.keep_to - self.start)

    def kept_tokens(self, frames_per_token: int) -> slice:
        """The tokens of the kept frames, counted likewise; an utterance's last may be of fewer."""
        kept = self.kept
        return slice(kept.start // frames_per_token, -(-kept.stop // frames_per_token))


@dataclass(frozen=True)
class Windowing:
    """How utterances are cut: frames of a window, and of the context discarded at inner edges.

    normalize: whether the encoder wants zero mean and unit variance over the whole utterance.
    frames_per_token: both numbers of frames are multiples of it. past, chunk: of a causal encoder,
    in frames; its windows have no other context, and are of whole chunks. Raises ValueError unless
    a window is longer than its context on both sides, or than its past.
    """

    frames: int
    context: int
    normalize: bool
    frames_per_token: int = 1
    past: int = 0
    chunk: int = 1

    def __post_init__(self):
        if self.past and self.frames < self.past + self.chunk:
            seconds = (self.past + self.chunk) / FRAMES_PER_SECOND
            raise ValueError(f"this causal tokenizer needs windows of {seconds:g} seconds")
        if self.frames <= 2 * self.context:
            raise ValueError("a window must be longer than its context on both sides")

    @classmethod
    def of_seconds(
        cls,
        window: float,
        context: float,
        normalize: bool,
        frames_per_token: int = 1,
        past: int = 0,
        chunk: int = 1,
    ) -> "Windowing":
        """From seconds, rounded to whole tokens, a causal encoder's window down to whole chunks."""
        tokens_per_second = FRAMES_PER_SECOND / frames_per_token
        frames, around = [
            round(s * tokens_per_second) * frames_per_token for s in (window, context)
        ]
        return cls(frames - frames % chunk, around, normalize, frames_per_token, past, chunk)

    @property
    def samples(self) -> int:
        """The most 16 kHz samples that still make one window."""
        return self.frames * SAMPLES_PER_FRAME + RECEPTIVE_FIELD - 1

    def plan(self, frames: int) -> list[Window]:
        """Windows that together keep each of an utterance's `frames` frames once.

        All are of full length, the last by reaching further back, so that they batch unpadded; but
        for the frames that are no whole token.
        """
        if frames <= self.frames:
            return [Window(0, frames, keep_from=0, keep_to=frames)]
        windows, kept = [], 0
        grid = self.chunk if self.past else self.frames_per_token
        before, after = (self.past, 0) if self.past else (self.context, self.context)
        last_start = -(-(frames - self.frames) // grid) * grid
        while kept < frames:
            start = min(max(0, kept - before), last_start)
            stop = min(start + self.frames, frames)
            keep_to = frames if stop == frames else stop - after
            windows.append(Window(start, stop, keep_from=kept, keep_to=keep_to))
            kept = keep_to
        return windows

    def cut(self, utterance: Utterance, plan: list[Window]) -> Iterator[np.ndarray]:
        """The float32 waveform of each window, in order, holding little more than one at a time.

        Normalised, where the encoder wants it, by the moments of the whole utterance.
        """
        blocks = utterance.blocks()
        if len(plan) == 1:
            # Whole, with the tail under one frame: a group norm over time sees it.
            yield self._normalized(np.concatenate(list(blocks)), utterance)
            return
        buffer, offset = np.empty(0, np.float32), 0
        for window in plan:
            first = window.start * SAMPLES_PER_FRAME
            last = (window.stop - 1) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD
            pieces, end = [buffer], offset + len(buffer)
            while end < last:
                pieces.append(next(blocks))
                end += len(pieces[-1])
            buffer, offset = np.concatenate(pieces)[first - offset :], first
            yield self._normalized(buffer[: last - first], utterance)

    def _normalized(self, wave: np.ndarray, utterance: Utterance) -> np.ndarray:
        if not self.normalize:
            return wave
        return ((wave - utterance.mean) * utterance.scale).astype(np.float32, copy=False)
