"""A process that has imported all that training needs, and forks one training process after the other.

    test ── one JSON order a line ──> nursery ── fork ──> train_here with a fault prepared ──> exit status

Starting Python and torch takes four seconds, a fork milliseconds; so a test can afford a dozen deaths. Nothing in the
nursery itself ever computes, so the children find no threads missing.

    {"start": {config}, "ranks": 2, "fault": {…}, "output": PATH}  ──> {"pids": […]}
    {"wait": [pid, …]}                                             ──> {"statuses": […]}, negative: the signal
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from pipelines.training.config import TrainingConfig


def main() -> None:
    _import_all()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = {"statuses": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in order["wait"]]}
        else:
            port = _free_port()
            answer = {"pids": [_fork(order, rank, port) for rank in range(order["ranks"])]}
        print(json.dumps(answer), flush=True)


def _import_all() -> None:
    import torch.distributed.checkpoint
    import torch.distributed.checkpoint.staging
    import torch.distributed.fsdp  # noqa: F401

    import vamba.data.encode
    import vamba.data.reader
    import vamba.data.text
    import vamba.model.init
    import vamba.model.pretrained
    import vamba.parallel.mesh
    import vamba.parallel.sharding
    import vamba.train.loop  # noqa: F401


def _fork(order: Mapping[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        status = _train(order, rank, port)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _train(order: Mapping[str, Any], rank: int, port: int) -> int:
    import traceback

    from pipelines.training.here import train_here
    from tests.faults.prepared import prepare

    os.environ |= order["environment"]
    if order["ranks"] > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(order["ranks"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    config = TypeAdapter(TrainingConfig).validate_python(order["start"])
    prepare(order["fault"], config, rank)
    try:
        summary = train_here(config)
    except BaseException:
        traceback.print_exc()
        return 1
    return 75 if summary is not None and summary.status == "preempted" else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
