"""Programs for two processes that act on the registry at once: each waits for the other at the worst moment."""

from __future__ import annotations

_WAIT = """
import sys, time
from pathlib import Path

def wait(folder, here, word):
    (folder / f"{word}-{here}").touch()
    deadline = time.monotonic() + 120
    while len(list(folder.glob(f"{word}-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
"""

# NAME/VERSION HERE FOLDER. Judged, and not yet claimed: here each waits until the other one has judged too.
PROMOTE = (
    _WAIT
    + """
from pipelines.registry import promote, verification
from pipelines.registry.config import PromotionConfig

target, here, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
verification.load_problem = lambda directory: ""
keep = promote.keep_decision

def after_both(*arguments, **named):
    wait(folder, here, "judged")
    return keep(*arguments, **named)

promote.keep_decision = after_both
try:
    outcome = promote.promote(PromotionConfig(target=target), force=True, reason="test")
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(getattr(error, "exit_code", 99))
print("moved" if outcome.moved else outcome.decision)
"""
)

# RUN NAME HERE FOLDER. Both have seen that there is no version yet, and begin to copy.
REGISTER = (
    _WAIT
    + """
from pipelines.registry import register

ref, name, here, folder = *sys.argv[1:4], Path(sys.argv[4])
look = register._known_version

def after_both(*arguments):
    found = look(*arguments)
    register._known_version = look
    wait(folder, here, "looked")
    return found

register._known_version = after_both
made = register.register_model(ref, name)
print(made.uri, made.created)
"""
)
