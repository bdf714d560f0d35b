"""A shard task's side of encoding: batches go to encoder actors, results come back.

No call waits for ever. An encoder that has died, that stays unavailable, or that does not answer in
time is given up, and its batches go to others: every encoder gives the same results. A batch that
does not fit an encoder's memory is split. Imports no PyTorch: a shard task is a small process.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.cluster.batches import form_batches
from pipeline.cluster.encoder_list import LIST_SECONDS, Assigned
from pipeline.settings import BatchLimits
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import one_line

Tag = TypeVar("Tag")
# Batches that an encoder has from one task: one that it encodes, and the next.
BATCHES_PER_ENCODER = 2
# How many encoders may die with a batch: then it is halved, if it can be, and else an error.
DEATHS_WHOLE, DEATHS_ALONE = 2, 4
# Once an encoder has answered, a call may take this many times as long as the longest answer so
# far, and at least so many seconds: a new shape may have to be compiled.
TIMES_LONGEST, LEAST_CALL_SECONDS = 20, 300.0
# A batch that so many encoders did not encode in time fails its shard.
MOST_LATE = 3
# Seconds for which an encoder may be unavailable, as after a fault of the network.
UNAVAILABLE_SECONDS = 30.0
# Seconds between looks at deadlines, or for an encoder where there is none.
LOOK_SECONDS = 1.0
# What a device without room raises: PyTorch's error, by its name since a shard task does not import
# PyTorch, and Python's.
NO_ROOM = ("OutOfMemoryError", "MemoryError")
# In other errors of a GPU: after one, every call of the same process fails.
BROKEN = "CUDA error"


class DoesNotFit(RuntimeError):
    """A window that no encoder can encode, even alone; another try would end in the same way."""


@dataclass
class _Batch(Generic[Tag]):
    """Windows to encode together. deaths: of encoders that had it. late: deadlines it missed."""

    windows: list[tuple[Tag, Sized]]
    deaths: int = 0
    late: int = 0

    @property
    def samples(self) -> int:
        """With padding to the longest window."""
        return len(self.windows) * max(len(wave) for _, wave in self.windows)

    def halves(self, deaths: int = 0) -> "list[_Batch[Tag]]":
        """Two batches; deaths: what they begin with."""
        middle = len(self.windows) // 2
        parts = self.windows[:middle], self.windows[middle:]
        return [_Batch(part, deaths, self.late) for part in parts]


@dataclass
class _Call:
    """A batch that an encoder has, since when."""

    batch: _Batch
    encoder: int
    sent: float


@dataclass
class _Unavailable:
    """An encoder that cannot be reached. since, retry: when it was first, and is tried again."""

    since: float
    retry: float


@dataclass
class Dispatcher:
    """Sends a shard task's batches to encoders and yields the results as they come.

    The driver makes one for each shard task. encoders: the EncoderList's actor. method: of the
    encoder. task: this task's number. call_seconds: the most that a call may take.

    waited, spent: seconds in which the task could not go on without an answer, and in all, until
    its last batch was sent.
    """

    encoders: ActorHandle
    method: str
    task: int
    call_seconds: float
    waited: float = 0.0
    spent: float = 0.0
    calls: dict[ray.ObjectRef, _Call] = field(default_factory=dict)
    waiting: deque[_Batch] = field(default_factory=deque)
    given_up: dict[int, str] = field(default_factory=dict)
    unavailable: dict[int, _Unavailable] = field(default_factory=dict)
    # When each encoder answered last, and how long the longest answer took.
    answered: dict[int, float] = field(default_factory=dict)
    longest: float | None = None
    # The smallest batch, in padded samples, that did not fit.
    too_large: float = math.inf
    assigned: dict[int, ActorHandle] = field(default_factory=dict)
    ask_at: float = 0.0

    def encode_all(
        self, windows: Iterable[tuple[Tag, Sized]], limits: BatchLimits
    ) -> Iterator[tuple[Tag, np.ndarray]]:
        """(tag, waveform) pairs → (tag, result) pairs, in the order in which batches come back.

        Raises DoesNotFit for a window that no encoder can encode, TimeoutError for a batch that
        none encoded in time, and what an encoder raises.
        """
        started = time.monotonic()
        self._ask()
        for batch in form_batches(windows, limits):
            self.waiting.append(_Batch(batch))
            while self.waiting:
                if not self._send():
                    waits = time.monotonic()
                    self._wait()
                    self.waited += time.monotonic() - waits
                    yield from self._collect()
                self.spent = time.monotonic() - started
        while self.calls or self.waiting:
            while self.waiting and self._send():
                pass
            self._wait()
            yield from self._collect()

    def _ask(self) -> None:
        """Tell which encoders are given up, and learn which ones to use now."""
        lost, self.given_up = self.given_up, {}
        node = ray.get_runtime_context().get_node_id()
        answer: Any = self.encoders.ask.remote(
            self.task, node, lost=lost, waited=self.waited, spent=self.spent
        )
        assigned: Assigned = ray.get(answer, timeout=LIST_SECONDS)
        self.assigned = assigned.encoders
        self.ask_at = time.monotonic() + assigned.seconds

    def _send(self) -> bool:
        """Send the next batch to the encoder with the fewest of this task's batches.

        Returns whether one had room for it.
        """
        now = time.monotonic()
        if now >= self.ask_at or self.given_up:
            self._ask()
        load = Counter(call.encoder for call in self.calls.values())
        free = [
            number
            for number in self.assigned
            if load[number] < BATCHES_PER_ENCODER
            and (number not in self.unavailable or self.unavailable[number].retry < now)
        ]
        if not free:
            return False
        batch = self.waiting.popleft()
        while batch.samples >= self.too_large and len(batch.windows) > 1:
            batch, rest = batch.halves(batch.deaths)
            self.waiting.appendleft(rest)
        number = min(free, key=lambda number: load[number])
        encode = getattr(self.assigned[number], self.method)
        ref = encode.remote([wave for _, wave in batch.windows])
        self.calls[ref] = _Call(batch, number, now)
        return True

    def _wait(self) -> None:
        """Wait for an answer, or a moment; where no encoder has a batch, the driver may give up."""
        if self.calls:
            ray.wait(list(self.calls), num_returns=1, timeout=LOOK_SECONDS)
        else:
            time.sleep(LOOK_SECONDS)

    def _collect(self) -> Iterator[tuple]:
        """Take one answer, if there is one, and give up encoders that are late with theirs."""
        done, _ = ray.wait(list(self.calls), num_returns=1, timeout=0) if self.calls else ([], [])
        for ref in done:
            yield from self._answer(ref, self.calls.pop(ref))
        now = time.monotonic()
        for call in list(self.calls.values()):
            since = now - max(call.sent, self.answered.get(call.encoder, 0.0))
            if call.encoder not in self.given_up and since > self._deadline(call.batch):
                call.batch.late += 1
                self._give_up(call.encoder, f"no answer in {since:.0f} s")
                if call.batch.late > MOST_LATE:
                    raise TimeoutError(f"no encoder encoded a batch in {since:.0f} s")

    def _deadline(self, batch: _Batch) -> float:
        """Seconds from an encoder's last answer in which this batch is to come back.

        Twice as long each time it did not: a machine may be that slow.
        """
        usual = self.call_seconds
        if self.longest is not None:
            usual = min(usual, max(LEAST_CALL_SECONDS, TIMES_LONGEST * self.longest))
        return usual * 2**batch.late

    def _answer(self, ref: ray.ObjectRef, call: _Call) -> Iterator[tuple]:
        """An answered call's results; after an error its batch is sent again, or halved."""
        batch, now = call.batch, time.monotonic()
        try:
            results = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if type(error.cause).__name__ in NO_ROOM:
                self.too_large = min(self.too_large, batch.samples)
                self._halve(batch, f"the encoder's memory is too small ({one_line(error.cause)})")
            elif BROKEN in str(error.cause):
                self._has_died(call, one_line(error.cause))
            else:
                raise
        except ray.exceptions.ActorUnavailableError as error:
            seen = self.unavailable.setdefault(call.encoder, _Unavailable(now, now))
            seen.retry = now + LOOK_SECONDS
            self.waiting.appendleft(batch)
            if now - seen.since > UNAVAILABLE_SECONDS:
                self._give_up(call.encoder, one_line(error))
        except ray.exceptions.RayError as error:
            self._has_died(call, one_line(error))
        else:
            self.longest = max(self.longest or 0.0, now - call.sent)
            self.answered[call.encoder] = now
            self.unavailable.pop(call.encoder, None)
            yield from zip((tag for tag, _ in batch.windows), results, strict=True)

    def _has_died(self, call: _Call, why: str) -> None:
        """Send a dead encoder's batch again, halved if another died with it before."""
        batch = call.batch
        batch.deaths += 1
        if batch.deaths >= (DEATHS_WHOLE if len(batch.windows) > 1 else DEATHS_ALONE):
            self._halve(batch, f"{batch.deaths} encoders died with it ({why})")
        else:
            self.waiting.appendleft(batch)
        self._give_up(call.encoder, why)

    def _halve(self, batch: _Batch, why: str) -> None:
        """Send a batch again as two. Raises DoesNotFit for a window that is alone."""
        if len(batch.windows) == 1:
            seconds = batch.samples / SAMPLE_RATE
            raise DoesNotFit(f"a window of {seconds:.1f} s cannot be encoded even alone: {why}")
        # One more death with a half, and it is halved again.
        self.waiting.extendleft(reversed(batch.halves(min(batch.deaths, DEATHS_WHOLE - 1))))

    def _give_up(self, encoder: int, why: str) -> None:
        """Use an encoder no more; what it has of this task goes to others."""
        self.given_up[encoder] = why
        self.assigned.pop(encoder, None)
        self.unavailable.pop(encoder, None)
        for ref, call in list(self.calls.items()):
            if call.encoder == encoder:
                del self.calls[ref]
                self.waiting.appendleft(call.batch)
