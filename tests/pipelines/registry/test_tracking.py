"""How MLflow is reached: a server that is silent is named while it is waited for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipelines.registry import tracking


def test_who_waits_for_a_silent_server_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "_QUIET_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(ConnectionError, match="can't be used"):
            tracking.open_client()
    said = capfd.readouterr().err
    assert "waiting for MLflow at http://" in said and "secret" not in said


def test_nobody_is_told_where_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path))
    tracking.open_client()
    assert "waiting" not in capfd.readouterr().err
