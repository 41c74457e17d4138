"""Every command of the documents exists as it is written: verb, options, make target, module; or says what it needs."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from typing import Any

import pytest
import typer

from jobs.cli.main import app
from tests.architecture.sources import ROOT
from tests.docs.documented import Documented, documented_commands

COMMANDS = documented_commands()
OURS = [command for command in COMMANDS if re.match(r"vamba ", command.text)]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
# What stands for something that the reader fills in.
_BRACKETS = re.compile(r"[\[\]]")


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.place)
def test_a_command_of_ours_is_one(command: Documented) -> None:
    problem = problem_of(shlex.split(_BRACKETS.sub(" ", command.text.partition(" | ")[0]))[1:])
    # In a sentence a verb may stand for itself ("`vamba promote` ends within seconds"), and an option for its kind.
    is_mention = not command.is_block and ("needs " in problem or "lacks its value" in problem)
    assert not problem or is_mention, f"{command.place}: {problem}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in OURS], ids=lambda command: command.place)
def test_another_command_exists_or_says_what_it_needs(command: Documented) -> None:
    words = shlex.split(command.text)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[0] == "make":
        assert words[1] in TARGETS, f"{command.place}: no such target"
    elif words[0].endswith("python") and words[1] == "-m" and words[2].startswith("benchmarks"):
        assert importlib.util.find_spec(words[2]) is not None, command.place
        _check_benchmark(words[2].replace(".", "/"), words[3:], command)
    elif words[0].endswith("python") and words[1].startswith("benchmarks/"):
        _check_benchmark(words[1].removesuffix(".py"), words[2:], command)
    elif command.is_block and words[0] != "export":
        assert command.needs, f"{command.place}: no test runs it; say before it what it needs: <!-- needs: … -->"


def test_the_documents_name_commands() -> None:
    """Else a change of their form would empty the tests above."""
    assert len(OURS) > 60 and len(COMMANDS) > 90


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("ingst videos --out data", "no verb 'ingst'"),
        ("ingest videos --ou data", "no option --ou"),
        ("runs shw RUN", "no verb 'shw'"),
        ("promote", "needs TARGET"),
        ("runs show A B", "'B' is one word too many"),
        ("ingest videos --out", "--out lacks its value"),
        ("submit train instruct --data x --nme y", "no option --nme"),
        ("ingest videos --out data", ""),
        ("runs", ""),
        ("ask film.mp4 What? --model m", ""),
    ],
)
def test_a_mistake_in_a_document_would_be_found(words: str, problem: str) -> None:
    assert problem_of(words.split()) == problem


def problem_of(words: Sequence[str]) -> str:
    """What is wrong with the words after `vamba`, by the command's own declaration; "" for nothing."""
    command: Any = typer.main.get_command(app)
    left = list(words)
    options = _options(command)
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        two = " ".join(left[:2])
        verb = left.pop(0)
        if verb != two and two in command.commands:
            verb = two
            left.pop(0)
        if verb not in command.commands:
            return f"no verb {verb!r}"
        command = command.commands[verb]
        options |= _options(command)
    if command.name == "submit" and left:
        jobs: Any = typer.main.get_command(app)
        options |= _options(jobs.commands[left[0]]) if left[0] in jobs.commands else {}
    positional: list[str] = []
    while left:
        word = left.pop(0)
        if word == "--":
            positional += left
            break
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, separator, _ = word.partition("=")
        if name not in options:
            return f"no option {name}"
        if not options[name] and not separator:
            if not left:
                return f"{name} lacks its value"
            left.pop(0)
    return _problem_of_arguments(command, positional)


def _options(command: Any) -> dict[str, bool]:
    """Option -> whether it is a flag."""
    found = {name: bool(p.is_flag) for p in command.params if p.param_type_name == "option" for name in p.opts}
    return {**found, "--help": True}


def _problem_of_arguments(command: Any, positional: Sequence[str]) -> str:
    if command.context_settings.get("allow_extra_args") or "…" in positional or hasattr(command, "commands"):
        return ""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    required = [argument for argument in arguments if argument.required]
    if len(positional) < len(required):
        return f"needs {required[len(positional)].name.upper()}"
    if len(positional) > len(arguments) and not any(argument.nargs == -1 for argument in arguments):
        return f"{positional[len(arguments)]!r} is one word too many"
    return ""


def _check_benchmark(module: str, words: Sequence[str], command: Documented) -> None:
    """Its options stand in its source: benchmarks import more than a test should."""
    path = ROOT / f"{module}.py"
    source = path if path.is_file() else ROOT / module / "__main__.py"
    text = source.read_text(encoding="utf-8") + "".join(
        file.read_text(encoding="utf-8") for file in source.parent.glob("*.py") if file != source
    )
    missing = [word for word in words if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text]
    assert not missing, f"{command.place}: no option {missing}"
