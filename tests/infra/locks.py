"""The exact versions of requirements/*.lock, for files that must agree with them."""

from __future__ import annotations

import re

from tests.architecture.sources import ROOT


def lock(name: str) -> dict[str, str]:
    """Package and version of each line of a lock."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))


LOCKED = lock("cpu")
