"""The working directory that is sent along: the source tree without what lies beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# Patterns of .gitignore, as Ray reads them: without the leading slash, "data" would leave out vamba/data as well.
# "/.*" would match the tree itself, so hidden folders are named. .skyignore says the same for SkyPilot.
_LEFT_OUT_AT_TOP = (
    ".git",
    ".venv",
    ".vamba",
    ".ci",
    ".*_cache",
    ".hypothesis",
    "tests",
    "docs",
    "build",
    "*.egg-info",
    "demo",
    "data",
    "report.html",
)
# Secrets that lie beside the source (infra/docker/compose.env) would be stored in the cluster, for whoever reaches it.
_LEFT_OUT_ANYWHERE = (
    *("__pycache__", ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_ed25519"),
    *("auth.ini", "auth_token", ".netrc", ".pgpass", ".aws", ".ssh", ".kube"),
)
EXCLUDES = (*(f"/{pattern}" for pattern in _LEFT_OUT_AT_TOP), *_LEFT_OUT_ANYWHERE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFiles:
    """root: of the source tree. sizes: bytes of every file, by its path below root, sorted."""

    root: Path
    sizes: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Of all of them, unpacked."""
        return sum(self.sizes.values())

    def by_top(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the files of each entry at the top; folders end in a slash."""
        found: dict[str, tuple[int, int]] = {}
        for name, size in self.sizes.items():
            top, slash, _ = name.partition("/")
            count, total = found.get(top + slash, (0, 0))
            found[top + slash] = (count + 1, total + size)
        return found


def sent_files(root: Path) -> SentFiles:
    """Raises ValueError for a directory without the source tree, or with a link that leads back into itself."""
    if not (root / "jobs" / "__main__.py").is_file():
        raise ValueError(
            f"{root} is not a source tree of this project (no jobs/__main__.py): give one by --working-dir."
        )
    return SentFiles(
        root=root, sizes={str(path.relative_to(root)): path.stat().st_size for path in sorted(_walk(root))}
    )


def place_in_tree(path: Path, sent: SentFiles) -> str:
    """A file's path below the tree, from which the job starts. Raises ValueError for one that is not sent along."""
    place = os.path.relpath(path.resolve(), sent.root)
    if not path.is_file():
        raise ValueError(f"The configuration file {path} does not exist.")
    if place not in sent.sizes:
        raise ValueError(
            f"{path} does not lie among the files that are sent, so the job would not find it: copy it into "
            f"{sent.root} (not below tests, docs or data)."
        )
    return place


def _walk(root: Path) -> Iterator[Path]:
    # Ray follows links to folders, too.
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder)
        names[:] = [name for name in names if not _excluded(name, here == root)]
        for link in (here / name for name in names if (here / name).is_symlink()):
            if here.resolve().is_relative_to(link.resolve()):
                raise ValueError(
                    f"{link} is a link to a folder that it lies in ({link.resolve()}), so the files to send have no "
                    "end: remove the link."
                )
        yield from (
            path for path in (here / name for name in files if not _excluded(name, here == root)) if path.is_file()
        )


def _excluded(name: str, top: bool) -> bool:
    patterns = (*_LEFT_OUT_ANYWHERE, *(_LEFT_OUT_AT_TOP if top else ()))
    return any(fnmatch(name, pattern) for pattern in patterns)
