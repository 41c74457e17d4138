"""A directory that appears complete or not at all.

    replacing(target): .target.writing-HOST-PID ──filled by the caller, synced──> target; removed after an error

What a killed process left beside the target is removed by the next one of the same host.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty directory for the block to fill, put in the place of `target` when the block ends without an error."""
    prefix = f".{target.name}.writing-{socket.gethostname()}-"
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target, prefix)
    draft = target.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in draft.iterdir():
            _sync(path)
        _sync(draft)
        _put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, target: Path) -> None:
    old = draft.with_name(draft.name + "-old")
    while not _replace(draft, target, old):
        # Another process put its own there between our two steps: ours comes after it.
        continue
    shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _replace(draft: Path, target: Path, old: Path) -> bool:
    """False where somebody else was faster; the target is then theirs."""
    shutil.rmtree(old, ignore_errors=True)
    try:
        target.rename(old)
    except FileNotFoundError:
        replaces = False
    else:
        replaces = True
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if replaces:
            old.rename(target)
        raise
    return True


def _remove_leftovers(target: Path, prefix: str) -> None:
    for path in target.parent.iterdir():
        pid, _, rest = path.name.removeprefix(prefix).partition("-")
        if not path.name.startswith(prefix) or not pid.isdigit() or _is_alive(int(pid)):
            continue
        # "-old" is what was there before; without the target it is the only copy.
        if rest == "" or target.exists():
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
