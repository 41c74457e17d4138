"""From an exception to what the user sees: one paragraph, and an exit code that scripts can act on.

An exception class may carry `exit_code` (a passed failure budget 3, a preemption 75). Otherwise what the user wrote or
pointed at wrongly is 2, and anything else is 1.
"""

from __future__ import annotations

from pipelines.redaction import redacted_text

FAILED, BAD_CONFIGURATION, REFUSED, PREEMPTED = 1, 2, 3, 75


def exit_code_of(error: BaseException) -> int:
    """The process's exit code for `error`."""
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    if isinstance(error, (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return BAD_CONFIGURATION
    return FAILED


def paragraph_of(error: BaseException) -> str:
    """The message, without a traceback. What is not meant for users is named by its class, with the way to see more."""
    text = redacted_text(str(error)).strip()
    if isinstance(error, FileNotFoundError) and error.filename:
        text = f"{error.filename} does not exist."
    if isinstance(error, (ValueError, FileNotFoundError, ConnectionError)) or hasattr(error, "exit_code"):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"
