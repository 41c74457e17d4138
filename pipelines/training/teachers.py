"""A teacher's cached logits beside a dataset: written once, read with every sample, the same bytes for the whole run.

    write_teachers ──> {uri}/{sample id}.safetensors, …  and teachers.json last: sha256 of each, and k
    open_teachers  ──> Teachers(sample id) ──> TeacherLogits of each conversation ──> SampleEncoder

A file holds `top_k_indices.{i}` and `top_k_values.{i}`, both (labelled tokens, k), of conversation i. Files
belong to samples, not to shards, so a dataset is not written again for a teacher, and can have several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.storage import Storage, open_storage
from pipelines.training.config import DistillConfig
from pipelines.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from vamba.data.encode import SampleEncoder
    from vamba.data.sample_table import SampleTable
    from vamba.data.text import TeacherLogits

INDEX = "teachers.json"
_FORMAT_VERSION = 1
_IDS, _VALUES = "top_k_indices", "top_k_values"


class Teachers:
    """What a teacher thought of every sample of a dataset. digest: of all its files together."""

    def __init__(self, storage: Storage, files: Mapping[str, str], digest: str) -> None:
        self._storage, self._files, self.digest = storage, files, digest

    def __call__(self, sample_id: str) -> tuple[TeacherLogits, ...]:
        """Of each conversation, in order. Raises ValueError for a file that is not what the index says."""
        from safetensors.numpy import load

        from vamba.data.text import TeacherLogits

        content = self._storage.read_bytes(_file_name(sample_id))
        if hashlib.sha256(content).hexdigest() != self._files[sample_id]:
            raise ValueError(f"its teacher, {_file_name(sample_id)}, is not the file that {INDEX} names")
        arrays = load(content)
        return tuple(
            TeacherLogits(
                token_ids=arrays[f"{_IDS}.{i}"].astype(np.int64), logits=arrays[f"{_VALUES}.{i}"].astype(np.float32)
            )
            for i in range(len(arrays) // 2)
        )


def open_teachers(config: DistillConfig, rows: SampleTable) -> Teachers:
    """The teachers of `rows`. Raises ValueError where there is no index, or one that leaves some of them out."""
    storage = open_storage(config.teachers)
    try:
        content = storage.read_bytes(INDEX)
    except FileNotFoundError as error:
        raise ValueError(f"distill.teachers is {config.teachers}, where there is no {INDEX}.") from error
    index: dict[str, Any] = json.loads(content)
    if index.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{config.teachers}/{INDEX} has format {index.get('format_version')}; this reads {_FORMAT_VERSION}."
        )
    files: dict[str, str] = index["files"]
    missing = [name for name in (sample_id.decode() for sample_id in rows.ids) if name not in files]
    if missing:
        raise ValueError(
            f"{config.teachers} has no teacher for {len(missing)} of {len(rows)} training samples, among them "
            f"{', '.join(missing[:4])}. Cache them too, or train on a dataset without them."
        )
    return Teachers(storage, files, "sha256:" + hashlib.sha256(content).hexdigest())


def write_teachers(uri: str, teachers: Iterable[tuple[str, Sequence[TeacherLogits]]]) -> None:
    """Store the logits of (sample id, its conversations in order); the index is written last."""
    from safetensors.numpy import save

    storage, files = open_storage(uri), dict[str, str]()
    for sample_id, conversations in teachers:
        arrays: dict[str, np.ndarray] = {}
        for number, teacher in enumerate(conversations):
            arrays[f"{_IDS}.{number}"] = teacher.token_ids.astype(np.int32)
            arrays[f"{_VALUES}.{number}"] = teacher.logits
        content = save(arrays)
        storage.write_atomic(_file_name(sample_id), content)
        files[sample_id] = hashlib.sha256(content).hexdigest()
    index = {"format_version": _FORMAT_VERSION, "files": files}
    storage.write_atomic(INDEX, json.dumps(index, sort_keys=True).encode())


def set_distillation(model: Any, config: DistillConfig) -> None:
    """Weigh the divergence from the teacher in the model's loss."""
    model.config = model.model.config = replace(model.config, distill_coeff=config.coeff)


def with_teachers(
    encode: SampleEncoder, config: DistillConfig, rows: SampleTable, directory: RunDirectory, rank: int
) -> SampleEncoder:
    """The encoder of training samples, with what the teacher thought of each. Evaluation has none.

    Records which teachers the run has, or checks that they are those. Raises RunMismatchError.
    """
    teachers = open_teachers(config, rows)
    directory.require_same("teachers_digest", teachers.digest, f"teachers in {config.teachers}", rank)
    return encode.taught_by(teachers)


def _file_name(sample_id: str) -> str:
    return f"{sample_id}.safetensors"
