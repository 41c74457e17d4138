"""What can be registered: a finished run, a checkpoint of a run, a directory, a model in an object store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.registry.models import ModelNotFoundError, find_run, resolve_model, run_lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrable:
    """A model before it is a version. directory: on this machine. source: its URI. run: its run directory, if any.

    marks: directories of the run to be kept as long as the version is there.
    """

    directory: Path
    source: str
    run: Path | None
    lineage: Mapping[str, str]
    marks: tuple[Path, ...]


def find_registrable(ref: str) -> Registrable:
    """Find, or for RUN@STEP make, the model that `ref` names. Raises ModelNotFoundError."""
    at_step = split_step(ref)
    if at_step is not None:
        return _checkpoint(*at_step)
    model = resolve_model(ref)
    parent = model.directory.parent
    run = parent if (parent / "run.json").is_file() and not ref.startswith("s3://") else None
    source = ref.rstrip("/") if ref.startswith("s3://") else model.directory.as_uri()
    marks = (model.directory, *_last_checkpoint(run)) if run is not None else ()
    return Registrable(directory=model.directory, source=source, run=run, lineage=model.lineage, marks=marks)


def split_step(ref: str) -> tuple[Path, int] | None:
    """(run directory, step) of RUN@STEP; None for anything else."""
    name, at, step = ref.rpartition("@")
    if not at or find_run(ref) is not None or "://" in ref:
        return None
    run = find_run(name)
    if run is None:
        return None
    if not step.isdigit():
        raise ValueError(f"{ref!r}: after @ comes the step of a kept checkpoint, a number. {_steps(run)}")
    return run, int(step)


def exported_checkpoint(run: Path, step: int) -> Path:
    """The checkpoint of a step as a model directory, made where it is not there yet. Raises ModelNotFoundError."""
    from pipelines.training.checkpoint_export import export_checkpoint
    from pipelines.training.run_directory import RunDirectory

    directory = RunDirectory(run)
    if step not in _kept(run):
        raise ModelNotFoundError(f"Run {run.name!r} has no checkpoint of step {step}. {_steps(run)}")
    return export_checkpoint(directory, step)


def _checkpoint(run: Path, step: int) -> Registrable:
    directory = exported_checkpoint(run, step)
    lineage = {**run_lineage(run), "step": str(step)}
    checkpoint = _kept(run)[step]
    return Registrable(
        directory=directory, source=directory.as_uri(), run=run, lineage=lineage, marks=(directory, checkpoint)
    )


def _last_checkpoint(run: Path) -> list[Path]:
    """The checkpoint that a finished model was made from, where it is still kept."""
    from pipelines.training.run_directory import RunDirectory

    step = RunDirectory(run).finished_step()
    return [_kept(run)[step]] if step is not None and step in _kept(run) else []


def _kept(run: Path) -> dict[int, Path]:
    from pipelines.training.checkpoint_files import Checkpoint, checkpoint_directories, open_checkpoint

    opened = (open_checkpoint(path) for path in checkpoint_directories(run / "checkpoints"))
    return {item.step: item.directory for item in opened if isinstance(item, Checkpoint)}


def _steps(run: Path) -> str:
    return f"It has {', '.join(map(str, _kept(run))) or 'none'} (vamba checkpoints ls {run.name})."
