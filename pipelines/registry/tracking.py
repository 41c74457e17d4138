"""The one way this package reaches MLflow: where it is, how it is kept quiet, which experiment runs live in.

Unset, `MLFLOW_TRACKING_URI` is a SQLite file in VAMBA_HOME with its artifacts beside it, so nothing has to be started
to have a registry. MLflow is imported inside functions: it costs seconds and most commands never need it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from pipelines.redaction import redacted, redacted_text
from pipelines.storage import vamba_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "vamba"
DATABASE_NAME = "mlflow.db"
_QUIET_S = 5.0

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's git probing prints a warning where git is not installed; the commit is recorded by ourselves.
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def tracking_uri(home: Path | None = None) -> str:
    """`$MLFLOW_TRACKING_URI`, or the SQLite file in `home`, by default VAMBA_HOME (its directory is created)."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    home = home or vamba_home().resolve()
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home / DATABASE_NAME}"


def is_server(uri: str) -> bool:
    """True for a tracking server, which can't see this machine's files."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The SQLite file of a tracking URI, None where it is none: sqlite:///relative, sqlite:////absolute."""
    name = unquote(urlparse(uri).path).removeprefix("/") if uri.startswith("sqlite:") else ""
    return Path(name).absolute() if name else None


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """MLflow makes or migrates the tables of a SQLite file when it opens it, and two at once fail over each other."""
    file = database_file(uri)
    with contextlib.ExitStack() as stack:
        # Where a folder can't be written or locked, MLflow says what is wrong with it.
        with contextlib.suppress(OSError):
            lock = stack.enter_context(file.with_name(f".{file.name}.lock").open("a")) if file else None
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _told_that_it_waits(uri: str) -> Iterator[None]:
    """Says once which server is waited for: MLflow asks one that is away for minutes, and is silent meanwhile.

    On the main thread alone: what runs beside a job tells of outages itself.
    """
    if not is_server(uri) or threading.current_thread() is not threading.main_thread():
        yield
        return
    text = f"waiting for MLflow at {redacted(uri)}, which does not answer; it is asked again for some minutes"
    timer = threading.Timer(_QUIET_S, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def open_client(home: Path | None = None) -> MlflowClient:
    """A client of the tracking server and registry. Raises `ConnectionError` with the address when it can't be used."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Creating the SQLite schema logs every one of its migrations.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    uri = tracking_uri(home)
    try:
        with _one_at_a_time(uri), _told_that_it_waits(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.get_experiment_by_name(EXPERIMENT)
    except Exception as error:
        raise ConnectionError(
            f"MLflow at {redacted(uri)} can't be used: {redacted_text(' '.join(str(error).split()))[:300]} Check "
            f"MLFLOW_TRACKING_URI; unset, a SQLite file in VAMBA_HOME ({vamba_home()}) is used."
        ) from error
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return client


def experiment_id(client: MlflowClient, name: str = EXPERIMENT) -> str:
    """The experiment's id, created on first use; local artifacts go to `VAMBA_HOME/mlartifacts`."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    location = None if is_server(tracking_uri()) else (vamba_home().resolve() / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except Exception:
        # Another process was first.
        known = client.get_experiment_by_name(name)
        if known is None:
            raise
        return str(known.experiment_id)
