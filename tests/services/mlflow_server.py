"""The tracking server as infra/ starts it: data in PostgreSQL, artifacts in S3 through the server."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.services.processes import Server, free_ports

_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # So that webhooks reach a receiver on loopback.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # It remembers for a minute that there was no webhook for an event.
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}


def mlflow_server(folder: Path, *, database: str, artifacts: str, environment: Mapping[str, str]) -> tuple[Server, str]:
    """(server, its address), not started yet. Needs 15 to 50 seconds to start, most of it for imports.

    database: a SQLAlchemy URI. artifacts: s3://… or a folder. environment: with which the server finds them.
    """
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--serve-artifacts", "--artifacts-destination", artifacts, "--backend-store-uri", database]  # fmt: skip
    server = Server(
        name="MLflow's server",
        command=command,
        log=folder / "log",
        is_ready=lambda: _is_healthy(address),
        environment={**environment, **_SETTINGS},
        options={"cwd": folder},
    )
    return server, address


def _is_healthy(address: str) -> bool:
    with urllib.request.urlopen(f"{address}/health", timeout=2) as response:
        return bool(response.status == 200)
