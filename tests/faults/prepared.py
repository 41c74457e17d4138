"""Faults, prepared in a process before it trains. An order names them:

moment, delay_s   SIGKILL to itself before its n-th change of the run's files, or that much later, within a write
count             writes how many such changes there were to this file, when it ends
refuse            changes whose path contains this fail with ENOSPC, as on a full disk
most_bytes        no file can grow beyond this: writes end half-way, as on a full disk, with EFBIG
hang              {rank, step}: that rank never returns from this step
no_data           steps from this one on find no data, for as long as the file exists: {step, path}, {rank}
losses            {step: factor} by which the step's loss on the last rank is multiplied
notice            {path}: a preemption notice, {"deadline": …}, is given as soon as this file exists
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.training.config import TrainingConfig
from tests.distributed.trouble import troubled_losses

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_UNTIL_IT_ENDS = ExitStack()
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def prepare(fault: Mapping[str, Any], config: TrainingConfig, rank: int) -> None:
    """Arrange for `fault` in this process."""
    if {"moment", "count", "refuse"} & {*fault}:
        _watch_changes(fault, Path(str(config.storage)) / "runs" / config.name)
    if "most_bytes" in fault:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["most_bytes"], resource.RLIM_INFINITY))
    if fault.get("hang", {}).get("rank") == rank:
        _hang_in_step(fault["hang"]["step"])
    if fault.get("no_data", {}).get("rank", rank) == rank and "no_data" in fault:
        _withhold_data(fault["no_data"]["step"], Path(fault["no_data"]["path"]))
    if "losses" in fault:
        _UNTIL_IT_ENDS.enter_context(troubled_losses({int(step): by for step, by in fault["losses"].items()}))
    if "notice" in fault:
        _announce(Path(fault["notice"]["path"]))


def _watch_changes(fault: Mapping[str, Any], root: Path) -> None:
    num_changes, num_refusable = 0, 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_changes, num_refusable
        if event not in _CHANGES or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if event == "open" and not (arguments[2] & _WRITING) or not str(path).startswith(str(root)):
            return
        num_changes += 1
        is_refusable = "refuse" in fault and fault["refuse"] in str(path).removeprefix(str(root))
        num_refusable += is_refusable
        if is_refusable and num_refusable > fault.get("after", 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if num_changes == fault.get("moment"):
            _die(fault.get("delay_s", 0.0))

    sys.addaudithook(hook)
    if "count" in fault:
        # os._exit, with which a child of the nursery ends, runs no handlers: the last change is the summary's reading.
        ended = partial(_write_count, Path(fault["count"]), lambda: num_changes)
        threading.Thread(target=_call_at_end, args=(ended,), daemon=True).start()
        atexit.register(ended)


def _write_count(path: Path, count: Any) -> None:
    path.write_text(str(count()))


def _call_at_end(action: Any) -> None:
    while True:
        time.sleep(0.02)
        action()


def _die(delay_s: float) -> None:
    if delay_s == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def _hang_in_step(step: int) -> None:
    from vamba.train import loop

    train_step = loop.train_step

    def hanging(state: Any, inputs: Any, **arguments: Any) -> Any:
        while state.step + 1 == step:
            time.sleep(0.1)
        return train_step(state, inputs, **arguments)

    loop.train_step = hanging


def _withhold_data(step: int, path: Path) -> None:
    from vamba.data.reader import PackReader

    finish = PackReader._finish

    def waiting(self: Any, planned: Any) -> Any:
        while planned.before.step + 1 >= step and path.exists() and not self._fetcher._closing.is_set():
            time.sleep(0.02)
        return finish(self, planned)

    PackReader._finish = waiting  # type: ignore[method-assign]


def _announce(path: Path) -> None:
    from pipelines.training import here
    from pipelines.training.preemption import PreemptionNotice

    def read() -> PreemptionNotice | None:
        return PreemptionNotice(**json.loads(path.read_text())) if path.exists() else None

    here.train_rank = partial(here.train_rank, notices=read)
