"""A job as the words after `vamba submit` describe it, read as `vamba JOB` itself would read them.

    "train", ["instruct", "--data", …] ──> the verb's own options ──> resolved configuration ──> Job: name, needs, files

So a mistake in them is told here, before anything is sent.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.capacity import Needs, evaluation_needs, ingest_needs, training_needs

JOBS = ("ingest", "train", "evaluate", "promote")
_ON_RAY = ("ingest", "train", "evaluate")
_FILE_OPTIONS = ("config", "recipe", "gates", "benchmark")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """words: what follows the verb, with `--address auto` where it uses the cluster it runs on. name: of the run, the
    dataset, the model or the evaluation. files: YAML files of the user's own that the words name.
    """

    verb: str
    words: tuple[str, ...]
    name: str
    config: Any
    files: tuple[Path, ...]
    on_cluster: bool

    def entrypoint(self, *program: str) -> str:
        """The command line, as a shell takes it."""
        return shlex.join([*program, self.verb, *self.words])

    def needs(self, *, has_gpus: bool) -> Needs | None:
        """Of the cluster that it runs on; None for a job that uses no worker of it."""
        if not self.on_cluster:
            return None
        if self.verb == "train":
            return training_needs(self.config)
        if self.verb == "evaluate":
            return evaluation_needs(self.config, has_gpus=has_gpus)
        return ingest_needs()

    def relative_paths(self) -> tuple[str, ...]:
        """Data that its words place relative to the working directory, which is another one where it runs."""
        config = self.config
        named = {
            "train": lambda: (config.data,),
            "ingest": lambda: (*config.sources, config.conversations, config.out),
            "evaluate": lambda: (config.data,),
            "promote": lambda: (),
        }[self.verb]()
        return tuple(value for value in named if value and "://" not in value and not Path(value).is_absolute())

    def short_name(self, most: int) -> str:
        """`vamba-VERB-NAME` of lower-case letters, digits and dashes, which Kubernetes and clouds take, for this and no
        other name."""
        plain = f"vamba-{self.verb}-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        if plain == f"vamba-{self.verb}-{self.name}" and len(plain) <= most:
            return plain
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:6]
        return f"{plain[: most - len(digest) - 1].rstrip('-')}-{digest}"

    def with_files(self, places: Mapping[Path, str]) -> tuple[str, ...]:
        """The words with each file's path replaced by its place where the job runs."""
        found = {str(path): place for path, place in places.items()}
        words = []
        for word in self.words:
            option, equals, value = word.partition("=")
            if equals and option.startswith("--") and value in found:
                word = f"{option}={found[value]}"
            words.append(found.get(word, word))
        return tuple(words)


def read_job(verb: str, words: Sequence[str]) -> Job:
    """Raises ValueError for an unknown job, and for what `vamba VERB` would refuse in its words."""
    if verb not in JOBS:
        raise ValueError(f"{verb!r} can't be submitted: choose one of {', '.join(JOBS)}.")
    module = _module(verb)
    options = _options(module, verb, words)
    address = options.get("address")
    stays = address in (None, "auto") and not options.get("here")
    on_cluster = verb in _ON_RAY and stays
    added = ("--address", "auto") if on_cluster and address is None else ()
    config = module.configured(**options)
    return Job(
        verb=verb,
        words=(*words, *added),
        name=_name(verb, config),
        config=config,
        files=tuple(_files(options)),
        on_cluster=on_cluster,
    )


def _module(verb: str) -> ModuleType:
    from jobs.cli import evaluate, ingest, promote, train

    return {"ingest": ingest, "train": train, "evaluate": evaluate, "promote": promote}[verb]


def _options(module: ModuleType, verb: str, words: Sequence[str]) -> dict[str, Any]:
    import typer

    app = typer.Typer(add_completion=False)
    app.command()(getattr(module, verb))
    try:
        return dict(typer.main.get_command(app).make_context(verb, list(words)).params)
    except typer.TyperException as error:
        raise ValueError(
            f"vamba {verb}: {error.format_message()} Options of `vamba submit` stand before the job's own words, and "
            f"what both have (--to, --dry-run) is the job's after `--`: vamba submit {verb} --to URL -- …"
        ) from None


def _files(options: Mapping[str, Any]) -> list[Path]:
    values = [str(options[name]) for name in _FILE_OPTIONS if options.get(name)]
    return [Path(value) for value in values if value.endswith((".yaml", ".yml"))]


def _name(verb: str, config: Any) -> str:
    names = {
        "train": lambda: config.name,
        "ingest": lambda: config.out.rstrip("/").rsplit("/", 1)[-1],
        "evaluate": lambda: config.name or config.model,
        "promote": lambda: config.target,
    }
    return str(names[verb]()).rstrip("/").removeprefix("models:/") or verb
