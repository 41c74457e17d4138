"""Two who move an alias at once, at every step of one another; and one that is killed at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.registry import history, moves
from pipelines.registry.anchor import AuditLogElsewhere, record
from pipelines.registry.audit import AuditLog, Entry
from pipelines.registry.moves import AliasBusy, AliasMoved, Move, holder_of, move_alias, settle
from pipelines.storage import LocalStorage, open_storage


class Killed(BaseException):
    """As a SIGKILL: nothing of the program's runs after it."""


@dataclass
class Registered:
    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Registry:
    """MLflow's client, as far as a move uses it."""

    def __init__(self) -> None:
        self.model = Registered()
        self.version_tags: dict[str, dict[str, str]] = {}

    def get_registered_model(self, name: str) -> Registered:
        return Registered(dict(self.model.aliases), dict(self.model.tags))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.model.aliases[alias] = version

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.model.tags[key] = value

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.version_tags.setdefault(version, {})[key] = value


class Watched:
    """Does something before, or after, the n-th call of any of an object's methods."""

    def __init__(self, inner: Any, clock: Clock) -> None:
        self._inner, self._clock = inner, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._clock.tick()
            value = found(*arguments, **named)
            self._clock.tick()
            return value

        return call


class Clock:
    def __init__(self, at: int, then: Callable[[], None]) -> None:
        self.ticks, self._at, self._then = 0, at, then

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == self._at:
            self._then()


def command(client: Any, log: AuditLog, version: str, decision: str = history.PROMOTED) -> Entry:
    """What promote does, but for judging."""
    settle(client, log, "toy", "champion")
    entries = log.entries()
    seen = {"champion": history.last_move(entries, "toy", "champion")}
    present, known = holder_of(client, "toy", "champion"), history.logged_holder(entries, "toy", "champion")
    previous = known if present == version else present
    move = Move(
        model="toy", version=version, alias="champion", previous=previous, decision=decision, seen=seen,
        tags={"decision": decision}, facts={"evidence": "sha256:e"},
    )  # fmt: skip
    return move_alias(client, log, move)


def started(folder: Path) -> tuple[Registry, AuditLog]:
    registry, log = Registry(), AuditLog(open_storage(folder))
    command(registry, log, "1")
    return registry, log


def watched(folder: Path, registry: Registry, clock: Clock) -> tuple[Any, AuditLog]:
    return Watched(registry, clock), AuditLog(Watched(LocalStorage(folder), clock))  # type: ignore[arg-type]


def ticks_of_a_move(folder: Path) -> int:
    registry, _ = started(folder)
    clock = Clock(0, lambda: None)
    command(*watched(folder, registry, clock), "2")
    return clock.ticks


def test_a_move_killed_at_any_step_is_completed_by_the_same_command(tmp_path: Path) -> None:
    count = ticks_of_a_move(tmp_path / "count")
    assert count > 30

    def kill() -> None:
        raise Killed

    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        registry, log = started(folder)
        with pytest.raises(Killed):
            command(*watched(folder, registry, Clock(at, kill)), "2")
        was_done = history.logged_holder(log.entries(), "toy", "champion") == "2"
        if not was_done:
            command(registry, log, "2")
        entries = log.entries()
        assert registry.model.aliases == {"champion": "2"} and registry.version_tags["2"]
        assert history.holders(entries, "toy", "champion") == ["1", "2"], at
        assert not list(history.open_begins(entries, "toy", "champion")) and log.find_damage() == []
        assert [entry.body["previous"] for entry in history.moves(entries, "toy", "champion")] == ["", "1"], at
        for entry in entries:
            if entry.body["action"] == history.INTERRUPT:
                assert entry.body["holder"] in ("1", "2")


def test_of_two_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    outcomes = set()
    for at in range(1, ticks_of_a_move(tmp_path / "count") + 1):
        folder = tmp_path / str(at)
        registry, log = started(folder)
        winners: list[str] = []
        told: list[str] = []

        def other(registry: Registry = registry, log: AuditLog = log, winners: list[str] = winners,
                  told: list[str] = told) -> None:  # fmt: skip
            try:
                command(registry, log, "3")
                winners.append("3")
            except (AliasBusy, AliasMoved) as error:
                told.append(str(error))

        try:
            command(*watched(folder, registry, Clock(at, other)), "2")
            winners.append("2")
        except (AliasBusy, AliasMoved) as error:
            told.append(str(error))
        entries = log.entries()
        moved = [entry.body["version"] for entry in history.moves(entries, "toy", "champion")][1:]
        assert sorted(moved) == sorted(winners) and len(winners) + len(told) == 2 and winners, at
        assert registry.model.aliases["champion"] == moved[-1]
        assert log.find_damage() == []
        # Both win only one after the other: the second then knew of the first.
        previous = [entry.body["previous"] for entry in history.moves(entries, "toy", "champion")]
        assert previous == ["", "1", *moved[:-1]]
        outcomes.add((tuple(moved), any("was moved from version 1" in text for text in told)))
    assert {(("2",), False), (("3",), True)} <= outcomes


def test_who_slept_through_a_takeover_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine there is no telling sleep from death: after a while its claim counts for nothing."""
    count = ticks_of_a_move(tmp_path / "count")
    monkeypatch.setattr(moves, "_is_alive", lambda begin: False)
    left_wrong = 0
    for at in range(1, count):
        registry, log = started(tmp_path / str(at))
        slow = watched(tmp_path / str(at), registry, Clock(at, partial(command, registry, log, "3")))
        told = False
        try:
            command(*slow, "2")
        except AliasMoved:
            told = True
        held = registry.model.aliases["champion"]
        assert told or held == history.logged_holder(log.entries(), "toy", "champion"), at
        left_wrong += held != history.logged_holder(log.entries(), "toy", "champion")
    # Between the last look at the log and MLflow's answer nothing can be done; the check tells (find_problems).
    assert left_wrong <= 2


def test_a_claim_of_another_machine_is_respected_until_it_is_old(tmp_path: Path) -> None:
    registry, log = started(tmp_path)
    claim = {"action": history.BEGIN, "version": "9", "alias": "champion", "previous": "1", "decision": "promoted",
             "claim": "x", "host": "another", "boot": "b", "pid": 1, "pid_start": 1}  # fmt: skip
    record(registry, log, "toy", lambda entries: claim)  # type: ignore[arg-type]
    with pytest.raises(AliasBusy, match="another"):
        command(registry, log, "2")
    old = AuditLog(open_storage(tmp_path / "old"))
    registry = Registry()
    old.append(lambda entries: {**claim, "model": "toy", "created_at": "2020-01-01T00:00:00.000+00:00"})
    command(registry, old, "2")
    actions = [entry.body["action"] for entry in old.entries()]
    assert actions == [history.BEGIN, history.INTERRUPT, history.BEGIN, history.MOVE]


def test_a_move_behind_our_back_is_not_overwritten(tmp_path: Path) -> None:
    registry, log = started(tmp_path)
    set_tag = registry.set_registered_model_tag

    def meddle(name: str, key: str, value: str) -> None:
        set_tag(name, key, value)
        registry.model.aliases["champion"] = "7"

    registry.set_registered_model_tag = meddle  # type: ignore[method-assign]
    with pytest.raises(AliasMoved, match="points at version 7"):
        command(registry, log, "2")
    assert registry.model.aliases == {"champion": "7"}
    assert log.entries()[-1].body["action"] == history.ABANDON


def test_a_log_that_lacks_its_end_is_not_gone_on_with(tmp_path: Path) -> None:
    registry, log = started(tmp_path)
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    with pytest.raises(AuditLogElsewhere, match="lacks line 2"):
        command(registry, log, "2")
    with pytest.raises(AuditLogElsewhere, match="the registry's log is"):
        command(registry, AuditLog(open_storage(tmp_path / "of-another-machine")), "2")


def test_a_rollback_takes_away_what_it_leaves(tmp_path: Path) -> None:
    registry, log = started(tmp_path)
    command(registry, log, "2")
    command(registry, log, "3")
    assert history.holders(log.entries(), "toy", "champion") == ["1", "2", "3"]
    command(registry, log, "2", history.ROLLED_BACK)
    assert history.holders(log.entries(), "toy", "champion") == ["1", "2"]
    command(registry, log, "1", history.ROLLED_BACK)
    assert history.holders(log.entries(), "toy", "champion") == ["1"]
    command(registry, log, "3")
    assert history.holders(log.entries(), "toy", "champion") == ["1", "3"]
