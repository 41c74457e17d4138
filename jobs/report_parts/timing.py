"""How long each step of a longer job took, as a report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTiming:
    """One step of a longer job: what it made, where that lies, and how many seconds it took."""

    name: str
    made: str
    where: str
    seconds: float


def read_steps(path: Path) -> tuple[StepTiming, ...]:
    """Steps from a JSON list of {"name", "made", "where", "seconds"}. Raises ValueError naming what is wrong."""
    try:
        return tuple(StepTiming(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f'{path} is not a JSON list of {{"name", "made", "where", "seconds"}} objects: {error}'
        ) from error
