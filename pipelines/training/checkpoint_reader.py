"""Reads the tensors of a checkpoint without trusting its files to be ours.

    .metadata ──restricted unpickler──> which tensor lies where ──plain names only──> torch.load(weights_only=True)

torch's DCP keeps its index, `.metadata`, as a pickle, and reads it with `pickle.load`: a checkpoint from somewhere else
could run code, since the hashes in meta.json tell damage from a copy, not a forgery from the truth. Here only the types
that an index of tensors is made of are built. Entries that are no tensors, which torch would unpickle as well, are
refused (`TrainState` has none), and so are files outside of the checkpoint's folder.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from pipelines.training.ranks import expect_single_process

_METADATA = "torch.distributed.checkpoint.metadata"
_TYPES = {
    *(
        (_METADATA, name)
        for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta")
    ),
    *((_METADATA, name) for name in ("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("builtins", "list"),
    ("builtins", "tuple"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),
}


class ForeignCheckpointError(ValueError):
    """A checkpoint holds what none of ours does, and is not opened further."""


class TensorsOnlyReader(FileSystemReader):
    """`FileSystemReader`, for tensors in the files of one folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index. Raises ForeignCheckpointError."""
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        metadata = read_index(path)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def load_tensors(tensors: Mapping[str, Any], directory: Path, *, no_dist: bool) -> None:
    """Fill `tensors` in place from a checkpoint. no_dist: this process alone reads it.

    Raises:
        ForeignCheckpointError: it holds something else than tensors in files of its own folder.
        torch's CheckpointException: it does not fit.
    """
    import torch.distributed.checkpoint as dcp

    if no_dist:
        expect_single_process()
    read_index(directory / ".metadata")  # here a refusal is told as it is; DCP would bury it in its own exception
    dcp.load(dict(tensors), storage_reader=TensorsOnlyReader(directory), no_dist=no_dist)


def read_index(path: Path) -> Metadata:
    """A `.metadata` file. Raises ForeignCheckpointError."""
    with path.open("rb") as file:
        try:
            metadata = _IndexUnpickler(file).load()
        except pickle.UnpicklingError as error:
            raise ForeignCheckpointError(f"{path} is no index of tensors: {error}") from error
        except (AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ForeignCheckpointError(f"{path} can't be read ({type(error).__name__}: {error})") from error
    if not isinstance(metadata, Metadata):
        raise ForeignCheckpointError(f"{path} is no index of tensors: it holds a {type(metadata).__name__}")
    for name, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise ForeignCheckpointError(f"{path}: {name!r} is no tensor; only tensors are read")
    for place in (metadata.storage_data or {}).values():
        name = place.relative_path
        if not isinstance(name, str) or Path(name).name != name or not name or "\0" in name:
            raise ForeignCheckpointError(f"{path} names {name!r}, outside of its folder")
        if (path.parent / name).is_symlink():
            raise ForeignCheckpointError(f"{path.parent / name} is a link; a checkpoint's files are its own")
        if place.transform_descriptors:
            raise ForeignCheckpointError(f"{path}: {name!r} is transformed; only plain tensors are read")
    return metadata


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TYPES or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of one")
