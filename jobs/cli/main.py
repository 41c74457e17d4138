"""Entry point of the `vamba` command: the list of verbs, the global options, and what happens to an error.

`vamba --help` must stay fast, so a verb's file imports nothing beyond typer and the standard library until it runs.
Every
error a user can meet ends here: one paragraph on stderr and an exit code (0 done, 1 failed, 2 bad configuration, 3
failure budget passed or gate refused, 75 preempted, 130 interrupted); `--debug` shows the traceback.
"""

from __future__ import annotations

import faulthandler
import functools
import io
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

from jobs.cli import (
    approve,
    ask,
    checkpoints,
    cluster_jobs,
    data,
    doctor,
    evaluate,
    evaluate_compare,
    history,
    ingest,
    model,
    models,
    promote,
    pull,
    register,
    report,
    resume,
    rollback,
    runs,
    runs_compare,
    runs_logs,
    runs_profile,
    runs_stop,
    submit,
    synthesize,
    train,
)
from jobs.cli.errors import exit_code_of, paragraph_of
from jobs.cli.session import SESSION
from pipelines.redaction import redacted_text

HELP = """Train long-video models: videos to shards, shards to a trained hybrid, a trained model to a promoted version.

A model is named by a directory, a run, models:/NAME/VERSION or models:/NAME@alias."""


class _Verbs(typer.core.TyperGroup):
    """Knows verbs of two words, where the first is a verb of its own: `evaluate MODEL`, `evaluate compare A B`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as raised:
            error: Any = raised
            if hasattr(error, "message"):
                error.message = redacted_text(str(error.message))  # it quotes the words that are wrong
            raise


app = typer.Typer(
    name="vamba",
    cls=_Verbs,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RESUMABLE = (ingest.ingest, train.train, resume.resume, evaluate.evaluate)
_GLOBAL_FLAGS = ("--debug", "--quiet")


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes: results and errors only.")] = False,
) -> None:
    SESSION.debug, SESSION.quiet = debug, quiet


def _guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with its errors turned into a paragraph and an exit code."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except KeyboardInterrupt:
            SESSION.end_progress()
            goes_on = "continues where this one stopped" if verb in _RESUMABLE else "starts again"
            typer.echo(f"vamba: interrupted; the same command {goes_on}.", err=True)
            raise typer.Exit(130) from None
        except typer.Exit:
            raise
        except BrokenPipeError:
            # The reader of our output left (`vamba runs | head`).
            raise typer.Exit(0) from None
        except Exception as error:
            SESSION.end_progress()
            if SESSION.debug:
                typer.echo(redacted_text("".join(traceback.format_exception(error))), err=True)
                raise typer.Exit(exit_code_of(error)) from None
            typer.echo(f"vamba: {paragraph_of(error)}", err=True)
            raise typer.Exit(exit_code_of(error)) from None

    return run


_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command("ingest")(_guarded(ingest.ingest))
app.command("train")(_guarded(train.train))
app.command("resume")(_guarded(resume.resume))
app.command("evaluate")(_guarded(evaluate.evaluate))
app.command("evaluate compare")(_guarded(evaluate_compare.compare))
app.command("ask")(_guarded(ask.ask))
app.command("register")(_guarded(register.register))
app.command("approve")(_guarded(approve.approve))
app.command("promote")(_guarded(promote.promote))
app.command("rollback")(_guarded(rollback.rollback))
app.command("history")(_guarded(history.history))
app.command("pull")(_guarded(pull.pull))
app.command("export")(_guarded(pull.export))
app.command("synthesize")(_guarded(synthesize.synthesize))
app.command("report")(_guarded(report.report))
app.command("doctor")(_guarded(doctor.doctor))
app.command("submit", context_settings=_PASS_THROUGH)(_guarded(submit.submit))


def _group(
    name: str, help_text: str, default: Callable[..., None] | None, verbs: dict[str, Callable[..., None]]
) -> None:
    group = typer.Typer(help=help_text, rich_markup_mode=None, no_args_is_help=default is None)
    if default is not None:
        group.callback(invoke_without_command=True)(_guarded(default))
    for verb, function in verbs.items():
        group.command(verb)(_guarded(function))
    app.add_typer(group, name=name)


_group(
    "runs",
    "List training runs (the default); show, follow, stop, compare or profile them.",
    runs.default,
    {
        "ls": runs.ls,
        "show": runs.show,
        "logs": runs_logs.logs,
        "stop": runs_stop.stop,
        "compare": runs_compare.compare,
        "profile": runs_profile.profile,
    },
)
_group(
    "jobs",
    "Follow, look at or stop what `vamba submit` sent.",
    None,
    {"logs": cluster_jobs.logs, "status": cluster_jobs.status, "stop": cluster_jobs.stop},
)
_group(
    "checkpoints",
    "List, verify, pin or clear away what a run has saved.",
    None,
    {
        "ls": checkpoints.ls,
        "verify": checkpoints.verify,
        "gc": checkpoints.gc,
        "pin": checkpoints.pin,
        "unpin": checkpoints.unpin,
    },
)
_group(
    "models",
    "List registered models and versions (the default); show, compare or delete one.",
    models.default,
    {"ls": models.ls, "show": models.show, "diff": models.diff, "delete": models.delete},
)
_group(
    "model",
    "Make a model directory from Qwen2-VL's, or look into one.",
    None,
    {"convert": model.convert, "inspect": model.inspect},
)
_group(
    "data",
    "List datasets; describe, verify or preview one; find what it holds twice.",
    None,
    {
        "ls": data.ls,
        "stats": data.stats,
        "verify": data.verify,
        "preview": data.preview,
        "duplicates": data.duplicates,
    },
)


def main() -> None:
    """The console script. Global flags may stand anywhere before `--`."""
    faulthandler.enable()  # a crash in native code then says where it was
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What this terminal can't show, or a file's name that is no text, is spelled out.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in _GLOBAL_FLAGS]
    rest = [word for word in arguments[:end] if word not in _GLOBAL_FLAGS] + arguments[end:]
    app([*flags, *rest])
