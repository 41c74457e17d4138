"""A model out of the registry, or out of a run, into a folder: byte by byte (pull), or written anew (export).

pull:    models:/NAME@alias ── every file, hashed against the version ──> DIR, complete or not at all
export:  anything that names a model, RUN@STEP too ── tensors one by one, in the type and shards asked for ──> DIR
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.registry.lineage import FILES_TAG
from pipelines.registry.model_files import differing_files, hash_model_files
from pipelines.registry.models import ResolvedModel, resolve_model
from pipelines.registry.registrable import exported_checkpoint, split_step
from pipelines.registry.transfer import fetch_model
from pipelines.storage import open_storage
from pipelines.training.registered import registered_versions


class FilesChanged(ValueError):
    """The version's files are not what was registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenModel:
    """What was written where."""

    directory: Path
    ref: str
    num_files: int
    size_bytes: int
    digest: str


def pull(ref: str, target: Path) -> WrittenModel:
    """Copy a registered version to `target`, which must not exist or be a model. Raises FilesChanged."""
    from vamba.model.pretrained import refuse_foreign

    model = resolve_model(ref if ref.startswith("models:") else f"models:/{ref}")
    refuse_foreign(target)
    _refuse_registered(target)
    label = f"models:/{model.lineage['name']}/{model.lineage['version']}"
    expected = json.loads(model.lineage.get(FILES_TAG, "{}"))
    wrong = differing_files(expected, hash_model_files(model.directory).sha256)
    if wrong:
        raise FilesChanged(f"{label} is not what was registered, so it was not copied: {'; '.join(wrong[:5])}.")
    files = fetch_model(open_storage(model.directory), target)
    return WrittenModel(
        directory=target, ref=label, num_files=len(files.sha256), size_bytes=files.size_bytes, digest=files.digest
    )


def export(ref: str, target: Path, *, dtype: str | None, max_shard_bytes: int) -> WrittenModel:
    """Write any model in release layout. dtype: of the weights, e.g. "bfloat16"; None keeps each as it is stored.

    Raises ValueError for a type there is not, or a directory that holds something else.
    """
    import torch

    from vamba.model.pretrained import FLOAT32_PARTS, read_config, read_processing, read_tensors, write_checkpoint

    wanted = getattr(torch, dtype, None) if dtype else None
    if dtype and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise ValueError(f"--dtype {dtype!r} is no floating type; use bfloat16, float16 or float32.")
    source = find_model(ref).directory
    _refuse_registered(target)
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the model itself; choose another directory.")
    tensors = (
        (
            name,
            tensor.to(wanted)
            if wanted and tensor.is_floating_point() and name.rpartition(".")[2] not in FLOAT32_PARTS
            else tensor,
        )
        for name, tensor in read_tensors(source)
    )
    write_checkpoint(
        target,
        read_config(source),
        tensors,
        tokenizer_dir=source,
        processing=read_processing(source),
        max_shard_bytes=max_shard_bytes,
    )
    files = hash_model_files(target)
    return WrittenModel(
        directory=target, ref=ref, num_files=len(files.sha256), size_bytes=files.size_bytes, digest=files.digest
    )


def _refuse_registered(target: Path) -> None:
    """A version's files are not written over."""
    versions = registered_versions(target.absolute())
    if versions:
        raise ValueError(
            f"{target} holds the files of {', '.join(sorted(versions))} in the registry; choose another directory."
        )


def find_model(ref: str) -> ResolvedModel:
    """A model by any of its names, NAME@alias and NAME/VERSION of the registry among them."""
    at_step = split_step(ref)
    if at_step is not None:
        return ResolvedModel(directory=exported_checkpoint(*at_step), ref=ref, lineage={})
    is_short = "://" not in ref and not Path(ref).exists() and not ref.startswith("models:")
    if is_short and ("@" in ref or "/" in ref):
        return resolve_model(f"models:/{ref}")
    return resolve_model(ref)
