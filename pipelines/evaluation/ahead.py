"""An iterator that runs ahead of its consumer in a thread of its own, by a bounded number of items."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
_LOOK_S = 0.1
"""How soon a producer that waits for room sees that nobody wants more."""


class _End:
    """Nothing follows; `error` is what ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterator[Item], most: int) -> Generator[Item, None, None]:
    """The same items in the same order, at most so many made before they are asked for; errors come in their place.

    It begins at once. Closed early, it ends the producer and returns when that has ended.
    """
    made: Queue[Item | _End] = Queue(most)
    is_over = Event()

    def offer(item: Item | _End) -> bool:
        while not is_over.is_set():
            try:
                made.put(item, timeout=_LOOK_S)
                return True
            except Full:
                continue
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not offer(item):
                    break
        except BaseException as caught:  # carried over to the consumer, whatever it is
            error = caught
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            offer(_End(error))

    thread = Thread(target=produce, name="ahead", daemon=True)
    thread.start()
    return _consume(made, is_over, thread)


def _consume(made: Queue[Item | _End], is_over: Event, thread: Thread) -> Generator[Item, None, None]:
    try:
        while True:
            item = made.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        is_over.set()
        thread.join()
