"""Names for processes that stay true after they are gone: a pid alone is soon given to another one."""

from __future__ import annotations

import os


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def process_name(pid: int) -> str:
    """`<pid>-<start>` of a running process, `<pid>-` of one that is gone."""
    ticks = start_ticks(pid)
    return f"{pid}-{'' if ticks is None else ticks}"


def machine_name() -> str:
    """Names this boot of this machine, and the namespace in which its pids count (a container has its own)."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
