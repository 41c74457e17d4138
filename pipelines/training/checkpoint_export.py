"""A checkpoint of a run as a model in release layout, as the run would have exported it had it ended there.

    config.json, model the run started from ──build_model──> whole model ── trained tensors of the checkpoint ──>
    {run}/models/step_00000040/

One process, on the CPU, no data: what the checkpoint does not hold is what the run started from, and its digest says
whether that is still the same.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.training.adapters import merged, select_trained
from pipelines.training.checkpoint_files import Checkpoint, checkpoint_path, open_checkpoint
from pipelines.training.checkpoints import FrozenWeightsError
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.session import build_model, tokenizer_directory
from pipelines.training.start_model import find_start, pin_start
from vamba.ops.backends import Backends


class CheckpointDamagedError(ValueError):
    """The checkpoint's files are not what they were."""


def export_checkpoint(directory: RunDirectory, step: int) -> Path:
    """Write the model of a kept checkpoint; returns its directory. One that is there already is returned as it is.

    Raises CheckpointDamagedError, or StartModelChangedError where the run's start model is not what it was.
    """
    target = directory.root / "models" / checkpoint_path(Path(), step).name
    if (target / "config.json").is_file():
        return target
    checkpoint = _intact(directory, step)
    target.parent.mkdir(exist_ok=True)
    with _alone(target):
        if not (target / "config.json").is_file():
            _write(directory, checkpoint, target)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Of several processes that export the same, one works and the others wait for what it makes."""
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(directory: RunDirectory, checkpoint: Checkpoint, target: Path) -> None:
    config = _config(directory)
    model = build_model(config)
    select_trained(model, config)
    _load_trained(model, checkpoint)
    tensors = ((name, tensor.detach()) for name, tensor in model.state_dict().items())

    from vamba.model.pretrained import write_checkpoint

    lora = config.model.lora
    write_checkpoint(
        target,
        model.architecture,
        tensors if lora is None else merged(tensors, lora, dict[str, Any]()),
        tokenizer_dir=tokenizer_directory(config),
        processing=config.reader.frames,
    )


def _intact(directory: RunDirectory, step: int) -> Checkpoint:
    path = checkpoint_path(directory.checkpoints, step)
    opened = open_checkpoint(path)
    damage = opened.find_damage() if isinstance(opened, Checkpoint) else opened
    if not isinstance(opened, Checkpoint) or damage is not None:
        raise CheckpointDamagedError(f"{path} is damaged: {damage}. Take another step: vamba checkpoints verify "
                                     f"{directory.name} tells which are whole.")  # fmt: skip
    return opened


def _config(directory: RunDirectory) -> TrainingConfig:
    """The run's configuration, on this machine's CPU, from the start model that was pinned."""
    from pydantic import TypeAdapter

    config: TrainingConfig = TypeAdapter(TrainingConfig).validate_python(directory.read_config())
    config = replace(config, backends=Backends(), workers=replace(config.workers, device="cpu"))
    start = find_start(config, directory)
    if start is None:
        return config
    found = pin_start(start, directory)
    return replace(config, model=replace(config.model, init_from=str(found.directory)))


def _load_trained(model: Any, checkpoint: Checkpoint) -> None:
    from pipelines.training.checkpoint_reader import load_tensors
    from vamba.train.fingerprint import fingerprint

    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict(keep_vars=True)
    frozen = fingerprint((name, tensor) for name, tensor in state.items() if not tensor.requires_grad)
    if checkpoint.frozen_digest not in (None, frozen):
        raise FrozenWeightsError(
            f"{checkpoint.directory} was trained on frozen weights {checkpoint.frozen_digest}, but what the run "
            f"started from has {frozen} now. Restore that."
        )
    trained = {f"model.{name}": tensor.detach() for name, tensor in state.items() if name in names}
    load_tensors(trained, checkpoint.directory, no_dist=True)
