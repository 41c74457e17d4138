"""Ray for the length of a job: connects to a cluster, or starts Ray on this machine and stops it again.

Every job enters Ray through `ray_session`, so that authentication, logging and resources are decided in one place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray takes a share of memory for its object store by default; the jobs here pass small rows.
_LOCAL_OBJECT_STORE_BYTES = 256 * 1024**2


@contextmanager
def ray_session(
    address: str | None, num_cpus: int | None = None, *, log_to_driver: bool = False, **init_options: Any
) -> Iterator[None]:
    """Ray, connected, inside the `with` block. Inside another session it uses that one.

    Args:
        address: of a running cluster ("auto", "ray://host:10001", "host:6379"); None starts Ray on this machine,
            whatever RAY_ADDRESS says.
        num_cpus: cores that a Ray started here offers; None takes all. Not for a running cluster.
        log_to_driver: whether the output of workers appears in this process.
        init_options: more arguments for ray.init.

    Raises:
        ValueError: `num_cpus` is given for a running cluster.
        ConnectionError: no cluster answers at `address`.
    """
    if address is not None and num_cpus is not None:
        raise ValueError(
            f"num_cpus is {num_cpus} but the Ray cluster at {address} is already running; leave num_cpus unset, "
            "or leave the address unset to start Ray on this machine"
        )
    _prepare_environment(address)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": log_to_driver, "logging_level": logging.WARNING, **init_options}
    if address is None:
        options.setdefault("include_dashboard", False)
        options.setdefault("object_store_memory", _LOCAL_OBJECT_STORE_BYTES)
        options["num_cpus"] = num_cpus
    ray.init(address=address or "local", configure_logging=True, **options)
    try:
        yield
    finally:
        ray.shutdown()


def num_cores() -> int:
    """CPUs of the cluster that this process is connected to, or of this machine."""
    import ray

    if not ray.is_initialized():
        return os.cpu_count() or 1
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _prepare_environment(address: str | None) -> None:
    """Sets what Ray reads from the environment when it is imported or started; the user's own settings stay."""
    if address is None:
        # A token file of some other cluster in the home directory must not lock a private, loopback Ray.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Workers of a Ray started here import this project from where it is, installed or not.
        root = str(Path(__file__).resolve().parents[1])
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if root not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))
    else:
        has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
