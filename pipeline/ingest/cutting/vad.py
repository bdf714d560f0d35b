"""Where a recording has speech, by Silero VAD, while it is decoded.

The model comes with the package silero-vad, of the extra `ingest`; nothing is downloaded. Its
network runs over blocks of frames in one call (ONNX), which is 20 times as fast as frame by frame.
"""

from collections.abc import Iterable, Iterator
from importlib.resources import files

import numpy as np

from pipeline.ingest.settings import IngestSettings
from tokenizer.audio.frames import SAMPLE_RATE

# The model's: samples of a frame at 16 kHz, samples of the frame before that it sees, its state.
FRAME, CONTEXT, STATE = 512, 64, (1, 1, 128)
SECONDS = FRAME / SAMPLE_RATE
# Frames of a call. More would save little, and decisions would come later.
FRAMES_AT_ONCE = 256
# Silero's own: speech begins over the first, and ends where it stays under the second so long.
BEGINS, ENDS, PAUSE_SECONDS = 0.5, 0.35, 0.1
# What is shorter is a click.
SHORTEST_SPEECH = 0.25
# Kept on both sides of speech.
MARGIN = 0.2
# Speech that is interrupted for longer becomes two segments.
LONGEST_PAUSE = 0.6
# Frames over which a quiet place is quiet.
QUIET_FRAMES = 3


class SpeechProbabilities:
    """The probability of speech in every frame of 32 ms."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = files("silero_vad.data") / "silero_vad_16k_sequence.onnx"
        self._session = onnxruntime.InferenceSession(
            model.read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._h = self._c = np.zeros(STATE, np.float32)
        # The context of the next frame, and what waits to be enough frames.
        self._context = np.zeros(CONTEXT, np.float32)
        self._waiting = np.zeros(0, np.float32)

    def feed(self, block: np.ndarray, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(n,) samples at 16 kHz → (probability, mean power) of each frame that is complete by it.

        Frames come some at a time; with `last` all that are left, the last one filled with zeros.
        """
        samples = np.concatenate([self._waiting, block])
        count = len(samples) // FRAME if not last else -(-len(samples) // FRAME)
        if not last and count < FRAMES_AT_ONCE:
            self._waiting = samples
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        frames = np.zeros((count, FRAME), np.float32)
        used = min(count * FRAME, len(samples))
        frames.reshape(-1)[:used] = samples[:used]
        self._waiting = samples[used:]
        parts = [frames[i : i + FRAMES_AT_ONCE] for i in range(0, count, FRAMES_AT_ONCE)]
        found = [np.zeros(0, np.float32), *map(self._run, parts)]
        return np.concatenate(found), np.einsum("fs,fs->f", frames, frames) / FRAME

    def _run(self, frames: np.ndarray) -> np.ndarray:
        before = np.concatenate([self._context[None], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:]
        values, self._h, self._c = self._session.run(
            ["speech_probs", "hn", "cn"],
            {"input": np.concatenate([before, frames], 1), "h": self._h, "c": self._c},
        )
        return values.reshape(-1)


class VadSegmenter:
    """Segments of speech, of `min_seconds` to `max_seconds` where the speech allows it.

    Speech with short pauses is one segment. One that is too long is cut at its quietest place, so
    that both parts are long enough. One that is too short goes on over a longer pause, and else
    takes in some of what is around it.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self.least, self.most = settings.min_seconds, settings.max_seconds
        self._probabilities = SpeechProbabilities()
        self._frame = self._samples = 0
        # Of the open segment: where its speech begins, or it was cut; where the last speech in it
        # ended; and the powers of its frames.
        self._start: float | None = None
        self._end = 0.0
        self._cut_before = False
        self._powers: list[float] = []
        # Whether this is speech, and since when it may not be any more.
        self._speech = False
        self._pause: float | None = None
        self._given = 0.0

    @property
    def undecided_from(self) -> float:
        """Nothing before it is wanted any more."""
        now = self._frame * SECONDS
        start = now if self._start is None else self._start
        return max(self._given, start - max(MARGIN, self.least), 0.0)

    def feed(self, block: np.ndarray) -> Iterable[tuple[float, float]]:
        """More of the recording, (n,) at 16 kHz → segments (start, end) that are certain now."""
        self._samples += len(block)
        return list(self._frames(*self._probabilities.feed(block)))

    def finish(self) -> Iterable[tuple[float, float]]:
        """The end of the recording → the segments that were left."""
        found = list(self._frames(*self._probabilities.feed(np.zeros(0, np.float32), last=True)))
        if self._speech:
            self._end = self._now()
        return [*found, *self._close()]

    def _now(self) -> float:
        """How far frames were looked at; the last one may reach past the recording's end."""
        return min(self._frame * SECONDS, self._samples / SAMPLE_RATE)

    def _frames(
        self, probabilities: np.ndarray, powers: np.ndarray
    ) -> Iterator[tuple[float, float]]:
        for probability, power in zip(probabilities.tolist(), powers.tolist(), strict=True):
            start, self._frame = self._frame * SECONDS, self._frame + 1
            if self._start is not None:
                self._powers.append(power)
            if self._speech:
                self._in_speech(probability, start)
            elif probability >= BEGINS:
                yield from self._begin(start, power)
            elif self._start is not None and start + SECONDS - self._end > self._longest_pause():
                yield from self._close()
            if self._start is not None and start - self._start > self.most + self.least:
                yield self._cut()

    def _begin(self, start: float, power: float) -> Iterator[tuple[float, float]]:
        if self._start is not None and start - self._end > self._longest_pause():
            yield from self._close()
        if self._start is None:
            self._start, self._powers, self._cut_before = start, [power], False
        self._speech, self._pause = True, None

    def _in_speech(self, probability: float, start: float) -> None:
        if probability >= BEGINS:
            self._pause = None
        elif probability < ENDS:
            self._pause = start if self._pause is None else self._pause
            if start + SECONDS - self._pause >= PAUSE_SECONDS:
                self._speech, self._end = False, self._pause

    def _longest_pause(self) -> float:
        """Over which the open segment goes on."""
        assert self._start is not None
        return self.least if self._end - self._start < self.least else LONGEST_PAUSE

    def _close(self) -> Iterator[tuple[float, float]]:
        """The segments that the open one becomes."""
        if self._start is None:
            return
        if self._end - self._start > self.most:
            yield self._cut()
        start, end = self._start, self._end
        self._start = None
        if end - start >= SHORTEST_SPEECH:
            yield self._give(start, min(end + MARGIN, self._now()))

    def _cut(self) -> tuple[float, float]:
        """The first part of the open segment, up to its quietest place."""
        assert self._start is not None
        end = self._frame * SECONDS if self._speech else self._end
        # Both parts are long enough, and the first is not too long.
        first = max(self.least, min(end - self._start - self.most, self.most))
        last = min(self.most, max(end - self._start - self.least, first))
        low, high = int(first / SECONDS), max(int(last / SECONDS), int(first / SECONDS) + 1)
        powers = np.convolve(self._powers, np.ones(QUIET_FRAMES), "same")[low:high]
        place = low + int(np.argmin(powers)) if len(powers) else low
        start, middle = self._start, self._start + (place + 0.5) * SECONDS
        segment = self._give(start, middle)
        self._start, self._cut_before = middle, True
        self._powers = self._powers[place:]
        return segment

    def _give(self, start: float, end: float) -> tuple[float, float]:
        start = start if self._cut_before else max(0.0, self._given, start - MARGIN)
        # The margins, too, are within the longest segment.
        end = min(end, start + self.most)
        missing = self.least - (end - start)
        if missing > 0:  # take in what is around it, no speech
            start = max(0.0, self._given, start - missing / 2)
            end = min(max(end, self._now()), start + self.least)
            start = max(0.0, self._given, min(start, end - self.least))
        self._given = end
        return start, end
