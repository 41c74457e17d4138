"""Actions on a service that may be away, while something more important goes on."""

from __future__ import annotations

from collections.abc import Callable


class Outages:
    """Catches what an action fails with; says once that an outage began, and once that it is over."""

    def __init__(self, notice: Callable[[str], None], *, away: str, back: str) -> None:
        """away, back: sentences for the user; the reason is put behind the first."""
        self._notice, self._away_text, self._back_text = notice, away, back
        self.is_away = False

    def attempt(self, action: Callable[[], object]) -> bool:
        """Whether `action` succeeded. Whatever it raises is caught: it must not reach training."""
        try:
            action()
        except Exception as error:
            if not self.is_away:
                self._notice(f"{self._away_text} ({' '.join(str(error).split())[:200]}); training goes on.")
            self.is_away = True
            return False
        if self.is_away:
            self._notice(self._back_text)
        self.is_away = False
        return True
