"""What the whole command shares while it runs: the global flags, and the one line of progress on the terminal."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field

from pipelines.redaction import redacted_text

_PLAIN_INTERVAL_S = 10.0
_TERMINAL_INTERVAL_S = 0.1


@dataclass(slots=True)
class Session:
    """Flags and progress. Results go to stdout; progress and notes go to stderr, so output can be piped."""

    debug: bool = False
    quiet: bool = False
    _last_shown_s: float = 0.0
    _line_open: bool = False
    _pending: str = field(default="")

    def note(self, text: str) -> None:
        """One line about what is going on."""
        if not self.quiet:
            self.end_progress()
            print(redacted_text(text), file=sys.stderr, flush=True)

    def progress(self, text: str, *, final: bool = False) -> None:
        """The current state of a long step: one line rewritten on a terminal, a line now and then elsewhere."""
        if self.quiet:
            return
        now, terminal = time.monotonic(), sys.stderr.isatty()
        self._pending = text
        if not final and now - self._last_shown_s < (_TERMINAL_INTERVAL_S if terminal else _PLAIN_INTERVAL_S):
            return
        self._last_shown_s = now
        self._show(text, terminal)
        if final:
            self.end_progress()

    def end_progress(self) -> None:
        """Finish the line, so that what follows starts on a new one; the latest state is shown if it was held back."""
        if self._pending:
            self._show(self._pending, sys.stderr.isatty())
        if self._line_open:
            print(file=sys.stderr, flush=True)
        self._line_open, self._last_shown_s = False, 0.0

    def _show(self, text: str, terminal: bool) -> None:
        self._pending = ""
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
            self._line_open = True
        else:
            print(text, file=sys.stderr, flush=True)


SESSION = Session()
