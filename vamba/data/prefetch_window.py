"""How far the reader may run ahead of training: a number of steps and a number of bytes, whichever ends first."""

from __future__ import annotations

import threading


class PrefetchWindow:
    """Steps on their way to the training thread, and the bytes they hold.

    A step enters before it is read and leaves when training takes it. The first one always may, however large it is:
    so a step above the limit is prepared alone, and nothing can wait for ever.
    """

    def __init__(self, limit_steps: int, limit_bytes: int) -> None:
        self._limit_steps, self._limit_bytes = limit_steps, limit_bytes
        self._changed = threading.Condition()
        self._closed = False
        self.num_steps = 0
        self.used_bytes = 0

    def enter(self, num_bytes: int, *, wait: bool) -> bool:
        """Take a step in if it fits; with `wait`, wait until it does. False when it did not, or after `close`."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._fits(num_bytes))
            if self._closed or not self._fits(num_bytes):
                return False
            self.num_steps += 1
            self.used_bytes += num_bytes
            return True

    def shrink(self, num_bytes: int) -> None:
        """A step in the window holds `num_bytes` less: what was read has been decoded."""
        with self._changed:
            self.used_bytes -= num_bytes
            self._changed.notify_all()

    def leave(self, num_bytes: int) -> None:
        """A step is training's now, with the `num_bytes` it still held."""
        with self._changed:
            self.num_steps -= 1
            self.used_bytes -= num_bytes
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in, or wait, any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, num_bytes: int) -> bool:
        if self.num_steps == 0:
            return True
        return self.num_steps < self._limit_steps and self.used_bytes + num_bytes <= self._limit_bytes
