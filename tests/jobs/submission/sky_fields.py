"""The fields of a SkyPilot task that our file uses, as SkyPilot's documentation has them (docs.skypilot.co, "SkyPilot
YAML", version 0.14). One that is not listed is refused, as SkyPilot does."""

from __future__ import annotations

import re
from typing import Any

_CPUS = re.compile(r"\d+\+?")
_INFRA = re.compile(r"[a-z0-9]+(/[\w*-]+){0,2}")
_ACCELERATORS = re.compile(r"[A-Za-z][\w-]*:\d+")
_VARIABLE = re.compile(r"[a-zA-Z_]\w*")

_FIELDS: dict[str, Any] = {
    "name": str, "workdir": str, "num_nodes": int, "setup": str, "run": str,
    "envs": {str: str},
    "secrets": {str: type(None)},
    "resources": {
        "accelerators": _ACCELERATORS, "infra": _INFRA, "image_id": re.compile(r"docker:\S+"), "cpus": _CPUS,
        "memory": _CPUS, "disk_size": int, "use_spot": bool,
        "job_recovery": {"strategy": str, "max_restarts_on_errors": int, "recover_on_exit_codes": list},
    },
}  # fmt: skip


def unknown_sky_fields(value: Any, expected: Any = None, path: str = "task") -> list[str]:
    """What is wrong with a task: the path and the reason of each finding."""
    expected = _FIELDS if expected is None else expected
    if isinstance(expected, re.Pattern):
        return [] if isinstance(value, str) and expected.fullmatch(value) else [f"{path}: {value!r} is not written so"]
    if isinstance(expected, type):
        return [] if type(value) is expected else [f"{path}: {value!r} is not of type {expected.__name__}"]
    if not isinstance(value, dict):
        return [f"{path}: fields are expected, not {value!r}"]
    if str in expected:
        names = [f"{path}.{name}: not a variable" for name in value if not _VARIABLE.fullmatch(name)]
        return names + [t for name in value for t in unknown_sky_fields(value[name], expected[str], f"{path}.{name}")]
    found = [f"{path}.{name}: no such field" for name in value if name not in expected]
    known = [name for name in value if name in expected]
    return found + [t for name in known for t in unknown_sky_fields(value[name], expected[name], f"{path}.{name}")]
