"""What the audit log says of an alias: its moves, who held it, what is under way. Pure functions over its lines.

    alias.begin ──> alias.move        the alias points at the version, and the decision stands
               ├──> alias.interrupt   whoever began is gone; `holder` says where the alias was found
               └──> alias.abandon     somebody else moved the alias meanwhile; nothing was changed

A begin that none of the three follows (they name it by its digest, in `of`) is open: somebody is at it, or was killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.registry.audit import Entry

BEGIN, MOVE, INTERRUPT, ABANDON = "alias.begin", "alias.move", "alias.interrupt", "alias.abandon"
REFUSE, REGISTER, DELETE = "promotion.refuse", "version.register", "version.delete"
PROMOTED, FORCED, REFUSED, ROLLED_BACK = "promoted", "forced", "refused", "rolled back"


def about(entries: Sequence[Entry], model: str) -> list[Entry]:
    """The lines about a model, oldest first."""
    return [entry for entry in entries if entry.body.get("model") == model]


def moves(entries: Sequence[Entry], model: str, alias: str) -> list[Entry]:
    """The completed moves of an alias, oldest first."""
    return [
        entry
        for entry in about(entries, model)
        if entry.body.get("action") == MOVE and entry.body.get("alias") == alias
    ]


def open_begins(entries: Sequence[Entry], model: str, alias: str) -> Iterator[Entry]:
    """Moves of an alias that were begun and not ended, oldest first."""
    ended = {entry.body["of"] for entry in entries if "of" in entry.body}
    for entry in about(entries, model):
        if (entry.body.get("action"), entry.body.get("alias")) == (BEGIN, alias) and entry.digest not in ended:
            yield entry


def holders(entries: Sequence[Entry], model: str, alias: str) -> list[str]:
    """The versions that a rollback can go back through, the present holder last: a rollback takes away what it left."""
    stack: list[str] = []
    for entry in moves(entries, model, alias):
        version, previous = str(entry.body["version"]), str(entry.body["previous"])
        if entry.body["decision"] == ROLLED_BACK and version in stack:
            del stack[len(stack) - stack[::-1].index(version) :]
            continue
        for name in (previous, version):
            # `previous` is another than we know where somebody moved the alias without us.
            if name and (not stack or stack[-1] != name):
                stack.append(name)
    return stack


def logged_holder(entries: Sequence[Entry], model: str, alias: str) -> str:
    """The version that the log has last moved the alias to, "" for none."""
    found = moves(entries, model, alias)
    return str(found[-1].body["version"]) if found else ""


def last_move(entries: Sequence[Entry], model: str, alias: str) -> int:
    """The number of the newest move's line, 0 for none."""
    found = moves(entries, model, alias)
    return found[-1].number if found else 0


def interrupted_rollback(entries: Sequence[Entry], model: str, alias: str) -> str:
    """The version that a killed rollback was on its way to, if nothing was done about the alias since; else ""."""
    done = [
        entry.body
        for entry in about(entries, model)
        if entry.body.get("alias") == alias and entry.body.get("action") in (MOVE, INTERRUPT, ABANDON)
    ]
    if done and (done[-1]["action"], done[-1]["decision"]) == (INTERRUPT, ROLLED_BACK):
        return str(done[-1]["version"])
    return ""


def last_decision(entries: Sequence[Entry], model: str, *, version: str | None, alias: str | None) -> str:
    """Digest of the evidence of the newest decision about a version, or of the one that an alias rests on; else ""."""
    for entry in reversed(about(entries, model)):
        body = entry.body
        if body.get("action") not in ((MOVE,) if alias else (MOVE, REFUSE)):
            continue
        if alias in (None, body["alias"]) and version in (None, body["version"]):
            return str(body["evidence"])
    return ""


def is_deleted(entries: Sequence[Entry], model: str, version: str) -> bool:
    """Whether a version was deleted and has not been registered again since."""
    lines = [entry.body["action"] for entry in about(entries, model) if entry.body.get("version") == version]
    lives = [action for action in lines if action in (REGISTER, DELETE)]
    return bool(lives) and lives[-1] == DELETE
