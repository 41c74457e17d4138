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

# Where Ray looks for a token if no variable names one.
TOKEN_FILE = Path("~/.ray/auth_token")
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


def set_auth_mode(*, joins: bool) -> str:
    """RAY_AUTH_MODE for this process and its children, `disabled` or `token`: what the user set, or else what follows
    from whether there is a cluster to join and a token in the environment.

    Never left to Ray, which looks whether a token file of some other cluster happens to lie in the home directory.
    Raises ValueError for another value, and for `token` without a token.
    """
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token" if joins and has_token else "disabled")
    if mode not in ("token", "disabled"):
        raise ValueError(f"RAY_AUTH_MODE is {mode!r}: set it to token or disabled, as the cluster has it.")
    # A Ray started here makes a token where there is none.
    if joins and mode == "token" and not has_token and not TOKEN_FILE.expanduser().is_file():
        raise ValueError(
            f"RAY_AUTH_MODE is token, but there is none: put the cluster's into {TOKEN_FILE}, or name its file in "
            "RAY_AUTH_TOKEN_PATH."
        )
    return mode


def _prepare_environment(address: str | None) -> None:
    """Sets what Ray reads from the environment when it is imported or started; the user's own settings stay."""
    set_auth_mode(joins=address is not None)
    if address is None:
        # Workers of a Ray started here import this project from where it is, installed or not.
        root = str(Path(__file__).resolve().parents[1])
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if root not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
