"""What a model directory holds, by hash: the identity of a model wherever its files lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Every file of a model directory with its SHA-256 (hex), and one digest over names and hashes."""

    sha256: Mapping[str, str]
    size_bytes: int

    @property
    def digest(self) -> str:
        text = json.dumps(sorted(self.sha256.items()))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def hash_model_files(directory: Path) -> ModelFiles:
    """Read and hash every file below `directory`; hidden ones are not part of a model."""
    paths = model_file_paths(directory)
    hashes = {path.relative_to(directory).as_posix(): _sha256(path) for path in paths}
    return ModelFiles(sha256=hashes, size_bytes=sum(path.stat().st_size for path in paths))


def model_file_paths(directory: Path) -> list[Path]:
    """The files of a model, sorted."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and is_part_of_model(path.relative_to(directory).as_posix())
    )


def is_part_of_model(path: str) -> bool:
    """False for what is hidden, or below a hidden folder. path: relative to the model's directory."""
    return not any(part.startswith(".") for part in path.split("/"))


def kept_path(directory: Path, digest: str) -> Path:
    """Where a registered model is kept once another one has taken its directory."""
    return directory.with_name(f"{directory.name}.kept-{digest.removeprefix('sha256:')[:12]}")


def differing_files(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One sentence for every file that is missing, added or changed."""
    return [
        f"{name} is "
        f"{'missing' if name not in found else 'not part of the version' if name not in expected else 'changed'}"
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    ]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
