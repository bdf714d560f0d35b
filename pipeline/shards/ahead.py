"""Work that goes on in threads while its results are used: each in order, and so much and no more.

Decoders and stores release Python's lock for most of their time.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead(Generic[Item]):
    """An iterator whose items are made in a thread of their own, ahead of their use.

    Used as a context, at whose end the thread has ended. blocked: seconds in which the thread could
    not go on because nobody took what it had made. ended: when it was done, by time.monotonic.
    """

    def __init__(
        self, items: Iterable[Item], most: float, size: Callable[[Item], float] = lambda _: 1
    ) -> None:
        """most: items that wait to be taken, each counted as size(item); one is always taken in."""
        self._items, self._most, self._size = items, most, size
        self._made: queue.SimpleQueue[tuple[Item | None, BaseException | None]]
        self._made = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting, self._stopped = 0.0, False
        self.blocked, self.ended = 0.0, 0.0
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> "Ahead[Item]":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._room:
            self._stopped = True
            self._room.notify()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        """The items. Raises what making one of them raised, when its turn has come."""
        while True:
            item, error = self._made.get()
            if error is not None:
                raise error
            if item is None:
                return
            with self._room:
                self._waiting -= self._size(item)
                self._room.notify()
            yield item

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as raised:  # raised again where the items are used
            error = raised
        finally:
            # A generator's own clean-up belongs to the thread that ran it.
            if close := getattr(self._items, "close", None):
                close()
            self.ended = time.monotonic()
            self._made.put((None, error))

    def _put(self, item: Item) -> bool:
        """Hand over an item, when there is room. Returns whether more are wanted."""
        size, started = self._size(item), time.monotonic()
        with self._room:
            while self._waiting and self._waiting + size > self._most and not self._stopped:
                self._room.wait()
            self._waiting += size
        self.blocked += time.monotonic() - started
        self._made.put((item, None))
        return not self._stopped


def mapped_in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: Callable[[], int], most: int
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) of each, in order; several at a time where `threads` allows it.

    threads: asked before each item, so that their number can change; one thread is the caller's
    own. most: threads that there can ever be. Each of them has at most two items begun that were
    not taken yet.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(max(1, most), thread_name_prefix="work") as pool:
        try:
            for item in items:
                wanted = min(threads(), most)
                if wanted <= 1 and not begun:
                    yield item, work(item)
                    continue
                begun.append((item, pool.submit(work, item)))
                while len(begun) >= 2 * max(1, wanted):
                    first, result = begun.popleft()
                    yield first, result.result()
            while begun:
                first, result = begun.popleft()
                yield first, result.result()
        finally:
            for _, result in begun:
                result.cancel()
