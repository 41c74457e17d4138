"""A PostgreSQL server with an empty database, from the programs that are installed on this machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services.processes import NotInstalled, Server, free_ports

USER, DATABASE = "mlflow", "mlflow"
DEBIAN = Path("/usr/lib/postgresql")
NEEDED = (
    "There is no PostgreSQL server on this machine, and the tests of services need one. Debian and Ubuntu: apt-get "
    "install postgresql; others: put initdb and postgres on the PATH."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQL:
    """server: to stop and start it. port: on loopback. password: of USER, who owns everything."""

    server: Server
    port: int
    password: str

    @property
    def uri(self) -> str:
        """As SQLAlchemy takes it."""
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds, past everything that usually stands before the database."""
        with contextlib.closing(_connect(self.port, self.password, DATABASE)) as connection:
            cursor = connection.cursor()
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def create_database(self) -> None:
        """The empty database."""
        with contextlib.closing(_connect(self.port, self.password, "postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {DATABASE}")


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A running server; its data are removed at the end of the block."""
    programs = find_postgresql()
    # Not below pytest's folder, which is closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="vamba-postgresql-"))
    try:
        with _running(programs, folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(programs: Path, folder: Path) -> Iterator[PostgreSQL]:
    password, (port,) = secrets.token_hex(16), free_ports(1)
    (folder / "password").write_text(password)
    identity = _identity(folder)
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", USER, "--auth=scram-sha-256", "--no-sync",
               "--pwfile", str(folder / "password"), "--encoding=UTF8", "--locale=C"]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **identity)
    assert made.returncode == 0, made.stderr
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        # A test's database need not outlive a power cut.
        "fsync": "off",
        "max_connections": "50",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = Server(
        name="PostgreSQL",
        command=[str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), *options],
        log=folder / "log",
        is_ready=lambda: _accepts(port, password),
        # "Fast shutdown": open connections are closed.
        stop_signal=signal.SIGINT,
        options={**identity, "cwd": folder},
    )
    found = PostgreSQL(server=server, port=port, password=password)
    try:
        server.start()
        server.wait_until_ready()
        found.create_database()
        yield found
    finally:
        server.stop()


def find_postgresql() -> Path:
    """The folder with initdb and postgres; Debian keeps them off the PATH. Raises NotInstalled."""
    on_path = shutil.which("initdb")
    debian = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = Path(on_path).resolve() if on_path else debian[-1] if debian else None
    if found is None or not found.with_name("postgres").is_file():
        raise NotInstalled(NEEDED)
    return found.parent


def _identity(folder: Path) -> dict[str, Any]:
    """Whom it runs as: PostgreSQL refuses to run as root. What is in `folder` is made that user's."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _accepts(port: int, password: str) -> bool:
    import psycopg2

    try:
        _connect(port, password, "postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def _connect(port: int, password: str, database: str) -> Any:
    import psycopg2

    return psycopg2.connect(host="127.0.0.1", port=port, user=USER, password=password, dbname=database)
