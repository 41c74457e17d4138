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
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pipelines.training.config import TrainingConfig
from pipelines.training.job import run_training
from pipelines.training.progress import Progress
from pipelines.training.ranks import from_first
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
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    config = replace(config, workers=replace(config.workers, num_workers=world_size, min_workers=None))
    if int(os.environ.get("RANK", "0")) == 0:
        return _lead(config, notice)
    with _process_group(config):
        order = from_first(None)
        if order is not None:
            resolved, root = order
            directory = RunDirectory(Path(root))
            with stopping_on_signals(directory, lambda text: None):
                train_rank(resolved, directory)
    return None


def _lead(config: TrainingConfig, notice: Notice) -> TrainingSummary:
    num_others = config.workers.num_workers - 1
    launcher = "without Ray" + (f", with {num_others} more" if num_others else "")
    # The group begins when there is something to tell it: a plan is counted before, in a group of its own.
    with ExitStack() as group:
        told = False

        def tell(order: tuple[TrainingConfig, str] | None) -> None:
            nonlocal told
            told = True
            group.enter_context(_process_group(config))
            from_first(order)

        def launch(config: TrainingConfig, directory: RunDirectory, progress: Progress, notice: Notice) -> None:
            tell((config, str(directory.root)))
            with _shown(progress), stopping_on_signals(directory, notice):
                train_rank(config, directory)

        try:
            return run_training(config, notice, launch, launcher=launcher)
        finally:
            if not told:
                tell(None)


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
def _process_group(config: TrainingConfig) -> Iterator[None]:
    """The group that torchrun describes in the environment; none for a process on its own."""
    if config.workers.num_workers == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    on_gpu = config.workers.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
