"""Of all tests of evaluations: they do not depend on how full the disk is."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of frames leaves a tenth of the disk to others, and keeps nothing where less is free."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"total": 1 << 40, "free": 1 << 39}))
