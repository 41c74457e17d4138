"""Training without Ray: in this process, or in the processes that torchrun has started.

    torchrun --nproc-per-node 8 -m jobs train …
        rank 0   ── run_training: opens the run, MLflow, progress ──┐ (configuration, directory)
        others   ───────────────────────────────────────────────────┴──> train_rank

SIGTERM, to any rank, has all of them save and stop: torchrun sends it to each of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.training.config import TrainingConfig
from pipelines.training.job import run_training
from pipelines.training.progress import Progress
from pipelines.training.ranks import from_first, rank_and_world_size
from pipelines.training.run_directory import RunDirectory
from pipelines.training.session import train_rank
from pipelines.training.stop import Notice, stopping_on_signals
from pipelines.training.summary import TrainingSummary


def is_under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def train_here(config: TrainingConfig, notice: Notice = print) -> TrainingSummary | None:
    """Train in this process and, under torchrun, its siblings. None on all ranks but the first.

    Raises what run_training raises, and what training itself does.
    """
    with _process_group(config.workers.device):
        rank, _ = rank_and_world_size()
        if rank == 0:
            return _lead(config, notice)
        _follow()
        return None


def _lead(config: TrainingConfig, notice: Notice) -> TrainingSummary:
    told = False

    def launch(config: TrainingConfig, directory: RunDirectory, progress: Progress, notice: Notice) -> None:
        nonlocal told
        told = True
        from_first((config, str(directory.root)))
        with _shown(progress), stopping_on_signals(directory, notice):
            train_rank(config, directory)

    world_size = rank_and_world_size()[1]
    launcher = "without Ray" + (f", with {world_size - 1} more" if world_size > 1 else "")
    try:
        return run_training(config, notice, launch, launcher=launcher)
    finally:
        if not told:
            from_first(None)


def _follow() -> None:
    order = from_first(None)
    if order is not None:
        config, root = order
        directory = RunDirectory(Path(root))
        with stopping_on_signals(directory, lambda text: None):
            train_rank(config, directory)


@contextmanager
def _shown(progress: Progress) -> Iterator[None]:
    closing = threading.Event()

    def follow() -> None:
        while not closing.wait(0.5):
            progress.show()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
        progress.show()


@contextmanager
def _process_group(device: str) -> Iterator[None]:
    """The group that torchrun describes in the environment; none for a process on its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
