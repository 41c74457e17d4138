"""Servers as child processes of a test: started with a log file, waited for, and ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATIENCE_S = 240.0


class NotInstalled(AssertionError):
    """A program that a server needs is not on this machine; the message says what brings it."""


@dataclass(slots=True, kw_only=True)
class Server:
    """A server that can be stopped and started again with the same data on the same port.

    log: what it prints, appended to. options: further arguments of Popen, for example another `user`. is_ready: asked
    again and again after a start; what it raises of OSError means no.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    options: Mapping[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `wait_until_ready` ends it."""
        with self.log.open("ab") as file:
            self._process = subprocess.Popen(
                self.command, env={**os.environ, **self.environment}, stdout=file, stderr=file,
                stdin=subprocess.DEVNULL, start_new_session=True, **self.options,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Raises AssertionError with what the server printed when it ends, or does not answer."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert self._process is not None
            assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}: {self._said()}"
            assert time.monotonic() < deadline, f"{self.name} did not answer within {_PATIENCE_S:.0f} s: {self._said()}"
            time.sleep(0.1)

    def stop(self, patience_s: float = 3.0) -> None:
        """End it and its children: by its signal, then by force. What was not started is no error."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _answers(self) -> bool:
        try:
            return self.is_ready()
        except OSError:
            return False

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of loopback."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def free_ports(count: int, *, with_grpc: bool = False) -> tuple[int, ...]:
    """Ports of loopback below those that the kernel and Ray's workers (10002 to 19999) give out.

    with_grpc: the port 10,000 above is free as well; SeaweedFS takes it.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 30_000), 2_000):
        if all(_is_free(each) for each in ((port, port + 10_000) if with_grpc else (port,))):
            found.append(port)
            if len(found) == count:
                return tuple(found)
    raise AssertionError("There are no free ports between 20000 and 30000 on 127.0.0.1.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
