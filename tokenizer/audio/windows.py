"""Long utterances in overlapping windows, so that each kept frame has context on both sides.

Of a window's frames, those closer than `context` to an inner edge are discarded. Whatever the
length, the number of frames is that of a single pass, and an utterance of one window is one pass.
Where a token spans several frames, windows start and are cut between tokens.

A causal encoder needs no context after a frame, but its whole past before it. Its windows start at
a chunk's start and discard only their first `past` frames, so that a kept frame attends to as many
frames as in a stream. The discarded frames have a shorter past than in a stream, and the deeper
layers see that. Within one window (30 s) the tokens are those of a stream; in longer audio nearly
all are (wavlm-tiny's layer 4, 200 s of speech: 99.9 %).

An encoder with replicate padding gets 399 copies of an utterance's first sample in front of it,
which are part of what is cut into windows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tokenizer.audio.decoding import Utterance, joined
from tokenizer.audio.frames import (
    FRAMES_PER_SECOND,
    RECEPTIVE_FIELD,
    SAMPLES_PER_FRAME,
    num_frames,
)
from tokenizer.audio.resampling import as_float
from tokenizer.errors import UsageError


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) are encoded; frames [keep_from, keep_to) of them are kept.

    All four are counted from the utterance's first frame.
    """

    start: int
    stop: int
    keep_from: int
    keep_to: int

    @property
    def kept(self) -> slice:
        """The kept frames, counted from the window's first."""
        return slice(self.keep_from - self.start, self.keep_to - self.start)

    def kept_tokens(self, frames_per_token: int) -> slice:
        """The kept tokens, counted from the window's first; an utterance's last may be partial."""
        kept = self.kept
        return slice(kept.start // frames_per_token, -(-kept.stop // frames_per_token))


@dataclass(frozen=True)
class RawWindow:
    """A window's audio before it is normalised: of 16-bit sound, half the bytes to send.

    samples: (n,) float32 at 16 kHz, or int16 in steps of 2^-15. mean, scale: of the whole
    utterance, as Utterance has them; a scale of None leaves the samples as they are.
    """

    samples: np.ndarray
    mean: float = 0.0
    scale: float | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def waveform(self) -> np.ndarray:
        """(n,) float32: what the encoder gets."""
        wave = as_float(self.samples)
        if self.scale is None:
            return wave
        return ((wave - self.mean) * self.scale).astype(np.float32, copy=False)


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How utterances are cut into windows. All lengths are in frames.

    frames: length of a window. context: discarded at each inner edge; ignored for a causal encoder.
    normalize: whether the encoder needs zero mean and unit variance over the whole utterance.
    frames_per_token: `frames` and `context` are multiples of it. past, chunk: what a causal encoder
    sees before a chunk, and the length of a chunk; past = 0 for any other encoder. left_padding: in
    samples, how many copies of its first an utterance gets in front. Raises UsageError unless a
    window is longer than twice its context, and than a causal past.
    """

    frames: int
    context: int
    normalize: bool
    frames_per_token: int = 1
    past: int = 0
    chunk: int = 1
    left_padding: int = 0

    def __post_init__(self) -> None:
        if self.past and self.frames < self.past + self.chunk:
            seconds = (self.past + self.chunk) / FRAMES_PER_SECOND
            raise UsageError(
                f"this causal tokenizer needs windows of {seconds:g} seconds",
                "make the window longer",
                argument="window_seconds",
            )
        if self.frames <= 2 * self.context:
            raise UsageError(
                "a window must be longer than its context on both sides",
                "make the window longer, or context_seconds shorter",
                argument="window_seconds",
                mentions=("context_seconds",),
            )

    @classmethod
    def of_seconds(
        cls,
        *,
        window_seconds: float,
        context_seconds: float,
        normalize: bool,
        frames_per_token: int = 1,
        past: int = 0,
        chunk: int = 1,
        left_padding: int = 0,
    ) -> "Windowing":
        """From a window and a context in seconds; the rest is as Windowing has it.

        Both are rounded to whole tokens. A causal encoder's window is then rounded down to whole
        chunks.
        """
        tokens_per_second = FRAMES_PER_SECOND / frames_per_token
        window_frames = round(window_seconds * tokens_per_second) * frames_per_token
        try:
            return cls(
                frames=window_frames - window_frames % chunk,
                context=round(context_seconds * tokens_per_second) * frames_per_token,
                normalize=normalize,
                frames_per_token=frames_per_token,
                past=past,
                chunk=chunk,
                left_padding=left_padding,
            )
        except UsageError as error:
            error.value = window_seconds
            raise

    @property
    def samples(self) -> int:
        """The largest number of 16 kHz samples of an utterance that is one window."""
        return self.frames * SAMPLES_PER_FRAME + RECEPTIVE_FIELD - 1 - self.left_padding

    def plan_samples(self, samples: int) -> list[Window]:
        """The windows of an utterance of so many 16 kHz samples, as `plan` has them.

        floor((n - 400) / 320) + 1 frames or, with the padding of 399, ceil(n / 320).
        """
        return self.plan(num_frames(samples + self.left_padding))

    def plan(self, frames: int) -> list[Window]:
        """The windows of an utterance of so many frames; each frame is kept exactly once.

        All windows have full length, so they batch without padding: the last one starts earlier
        instead of being shorter. It can be shorter by less than a token or a causal chunk, since
        windows start at the start of one.
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
        """The (n,) float32 waveform of each window, in order; little more than one is in memory.

        Normalised by the mean and variance of the whole utterance, where the encoder needs it. The
        first window starts with the left padding.
        """
        return (window.waveform() for window in self.cut_raw(utterance, plan))

    def cut_raw(self, utterance: Utterance, plan: list[Window]) -> Iterator[RawWindow]:
        """The windows as `cut` has them, before they are normalised."""
        blocks = self._padded(utterance.blocks())
        if len(plan) == 1:
            # With the last samples that fill no frame: a group norm over time sees them.
            yield self._raw(joined(blocks, utterance.is_int16), utterance)
            return
        buffer, offset = np.empty(0, np.int16 if utterance.is_int16 else np.float32), 0
        for window in plan:
            first = window.start * SAMPLES_PER_FRAME
            last = (window.stop - 1) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD
            pieces, end = [buffer], offset + len(buffer)
            while end < last:
                pieces.append(next(blocks))
                end += len(pieces[-1])
            buffer, offset = np.concatenate(pieces)[first - offset :], first
            # A copy: a part of the buffer would keep all of it in memory.
            yield self._raw(buffer[: last - first].copy(), utterance)

    def _padded(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        started = False
        for block in blocks:
            if len(block) and not started:
                block, started = left_padded(block, self.left_padding), True
            yield block

    def _raw(self, wave: np.ndarray, utterance: Utterance) -> RawWindow:
        if not self.normalize:
            return RawWindow(wave)
        return RawWindow(wave, utterance.mean, utterance.scale)


def kept_samples(window: Window, tokens: int, samples_per_token: int) -> slice:
    """Of a window's decoded waveform: those that no other window gives.

    window: as of `plan`, counted in tokens. tokens: of the utterance.
    """
    end = None if window.keep_to == tokens else window.kept.stop * samples_per_token
    return slice(window.kept.start * samples_per_token, end)


def left_padded(wave: np.ndarray, copies: int) -> np.ndarray:
    """(n,) samples, at least one → (copies + n,): copies of the first sample, then the samples."""
    return np.pad(wave, (copies, 0), mode="edge") if copies else wave
