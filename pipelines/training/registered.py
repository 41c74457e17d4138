"""Which checkpoints and models of a run are versions of a registered model, so that nothing of ours takes them away.

    checkpoints/step_00000040.registered.json    {"versions": {"vamba/2": "sha256:…"}}: kept whatever the retention rule says
    model.registered.json                        {"versions": {"vamba/1": "sha256:…"}}, of the files in model/
    model.kept-1f0c…/                            what was in model/ when it was registered, once a longer run replaced it

Written when a version is registered and when one is deleted. Beside the directories, never in them.
"""  # noqa: E501

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.registry.model_files import hash_model_files, kept_path
from pipelines.training.run_directory import read_json, write_json

_SUFFIX = ".registered.json"


def registered_versions(directory: Path) -> dict[str, str]:
    """{NAME/VERSION: digest of its files} of a checkpoint or model directory."""
    path = _marker(directory)
    return {str(key): str(value) for key, value in read_json(path)["versions"].items()} if path.is_file() else {}


def is_registered(directory: Path) -> bool:
    """Whether `directory` is some version's, also where a damaged file no longer says which one's."""
    return _marker(directory).is_file()


def mark_registered(directory: Path, version: str, digest: str) -> None:
    """Note that `directory` is the version NAME/VERSION, or what it was made from."""
    _change(directory, lambda versions: {**versions, version: digest})


def unmark_registered(directory: Path, version: str) -> None:
    """Note that the version is no more."""
    if _marker(directory).is_file():
        _change(directory, lambda versions: {key: value for key, value in versions.items() if key != version})


def keep_registered(directory: Path) -> None:
    """Before something else is written to a model directory: move what is registered aside. Nothing where it is not.

    A version's source is the directory's name, which MLflow can't change; `version_directory` looks here as well.
    """
    if not is_registered(directory) or not directory.is_dir():
        return
    digest = hash_model_files(directory).digest
    kept = kept_path(directory, digest)
    try:
        is_known = digest in registered_versions(directory).values()
    except (ValueError, KeyError):  # damaged: then it may be
        is_known = True
    if is_known and not kept.exists():
        directory.rename(kept)


def _change(directory: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    path = _marker(directory)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        versions: dict[str, Any] = change(registered_versions(directory))
        if versions:
            write_json(path, {"versions": versions})
        else:
            path.unlink(missing_ok=True)


def _marker(directory: Path) -> Path:
    return directory.with_name(directory.name + _SUFFIX)
