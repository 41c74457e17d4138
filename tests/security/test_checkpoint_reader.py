"""A checkpoint is read as tensors in files of its own folder: no code runs, no other file is opened."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from pipelines.training.checkpoint_reader import ForeignCheckpointError, load_tensors, read_index


def save(directory: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=str(directory), no_dist=True)
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "step_00000001", {"model.a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)})


def rewrite(checkpoint: Path, index: object) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_type_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = torch.ones(2, 3).to(dtype)
    directory = save(tmp_path / "c", {"a": stored, "nested": {"b": stored.T.contiguous()}})
    found: dict[str, Any] = {"a": torch.zeros_like(stored), "nested": {"b": torch.zeros(3, 2, dtype=dtype)}}
    load_tensors(found, directory, no_dist=True)
    assert torch.equal(found["a"], stored) and torch.equal(found["nested"]["b"], stored.T)


class Exploit:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_an_index_runs_no_code(checkpoint: Path, tmp_path: Path) -> None:
    rewrite(checkpoint, Exploit(tmp_path / "pwned"))
    with pytest.raises(ForeignCheckpointError, match="mkdir"):
        load_tensors({"model.a": torch.zeros(2, 3)}, checkpoint, no_dist=True)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04}.", b"not a pickle", b"("])
def test_what_is_no_index_is_named(content: bytes, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(content)
    with pytest.raises(ForeignCheckpointError, match=r"\.metadata"):
        read_index(checkpoint / ".metadata")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".", "a/b", "a\0b"])
def test_an_index_names_no_file_outside_of_its_folder(name: str, checkpoint: Path) -> None:
    index = read_index(checkpoint / ".metadata")
    assert index.storage_data is not None
    for place in index.storage_data.values():
        place.relative_path = name
    rewrite(checkpoint, index)
    with pytest.raises(ForeignCheckpointError, match="outside of its folder"):
        load_tensors({"model.a": torch.zeros(2, 3)}, checkpoint, no_dist=True)


def test_a_linked_file_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    (data,) = checkpoint.glob("*.distcp")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ForeignCheckpointError, match="link"):
        load_tensors({"model.a": torch.zeros(2, 3)}, checkpoint, no_dist=True)


def test_objects_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    """torch would unpickle them with `weights_only=False`."""
    directory = save(tmp_path / "c", {"a": torch.ones(1), "object": "text"})
    with pytest.raises(ForeignCheckpointError, match="'object' is no tensor"):
        load_tensors({"a": torch.zeros(1), "object": None}, directory, no_dist=True)


def test_tensor_bytes_run_no_code(checkpoint: Path, tmp_path: Path) -> None:
    index = read_index(checkpoint / ".metadata")
    (data,) = checkpoint.glob("*.distcp")
    buffer = io.BytesIO()
    torch.save(Exploit(tmp_path / "pwned"), buffer)
    data.write_bytes(buffer.getvalue())
    assert index.storage_data is not None
    for place in index.storage_data.values():
        place.offset, place.length = 0, len(buffer.getvalue())
    rewrite(checkpoint, index)
    with pytest.raises(BaseException, match="(?i)weights"):
        load_tensors({"model.a": torch.zeros(2, 3)}, checkpoint, no_dist=True)
    assert not (tmp_path / "pwned").exists()
