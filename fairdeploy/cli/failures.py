"""How every failure ends in one line: whose fault it is, what was kept, where the rest is told."""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairdeploy.errors import FairdeployError
from fairdeploy.files import cache_folder

USER_ERROR = 1
INTERRUPTED = 130
_LONGEST_LINE = 2000
_LONGEST_NAME = 80


class Stopped(FairdeployError):
    """The user or the system ended the command, or nobody reads what it prints."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def telling_stops(command: Callable[..., None]) -> Callable[..., None]:
    """The same command; what the parser of the command line would swallow becomes ``Stopped``."""

    @functools.wraps(command)
    def told(*args: Any, **values: Any) -> None:
        try:
            command(*args, **values)
        except KeyboardInterrupt as error:
            kept = notes_of(error) or "nothing was written"
            raise Stopped(f"interrupted; {kept}", INTERRUPTED) from error
        except BrokenPipeError as error:
            raise Stopped(failure_line(error), USER_ERROR) from error

    return told


def failure_line(error: Exception) -> str:
    """One line for what is no error of ours to word: the system refused, or we have a bug."""
    if isinstance(error, OSError):
        text = refusal(error)
    elif isinstance(error, MemoryError):
        text = "memory ran out; free some, or take fewer images or a smaller batch"
    else:
        text = _bug(error)
    return "; ".join(filter(None, (text, notes_of(error))))


def notes_of(error: BaseException) -> str:
    """What was kept of the work, as far as the error has been told."""
    return "; ".join(getattr(error, "__notes__", ()))


def one_line(text: str) -> str:
    """Without line breaks, and cut where a name or a value would fill the screen."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def refusal(error: OSError) -> str:
    """What the system refused, in a user's words."""
    reason = (error.strerror or str(error)).lower()
    name = str(error.filename or "")
    if not name:
        return f"cannot go on: {reason}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}…"
    return f"cannot use '{name}': {reason}"


def flush_stdout() -> None:
    """Let a refusal come now, not when the interpreter ends.

    Raises:
        Stopped: What was printed does not arrive.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # else the interpreter tries again at its end, and tells of that
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        reason = (error.strerror or str(error)).lower()
        raise Stopped(f"cannot write to the standard output: {reason}", USER_ERROR) from error


def keep_libraries_quiet() -> None:
    """Log what goes wrong in threads, destructors and log handlers, where nobody can catch it."""
    logging.raiseExceptions = False
    threading.excepthook = lambda event: _swallow(event.exc_value)
    sys.unraisablehook = lambda event: _swallow(event.exc_value)


def _swallow(error: BaseException | None) -> None:
    if error is not None:
        _write_log(error)


def _bug(error: Exception) -> str:
    log = _write_log(error)
    where = f"the details are in '{log}'" if log else "the details could not be written to a file"
    reason = one_line(str(error))[:200]
    kind = type(error).__name__
    return (
        f"this is a bug in fairdeploy, not a mistake of yours ({kind}{': ' * bool(reason)}"
        f"{reason}); {where}; please report it with that file"
    )


def _write_log(error: BaseException) -> Path | None:
    """Traceback and versions, in the cache, else in the system's temporary folder."""
    text = "\n".join((*_circumstances(), *traceback.format_exception(error)))
    name = f"failure-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (cache_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None


def _circumstances() -> list[str]:
    try:
        from fairdeploy.runs.environment import describe_environment

        facts = describe_environment()
    except Exception as problem:  # whatever is broken must not hide what is told
        facts = {"environment": f"unknown ({type(problem).__name__}: {problem})"}
    return [f"command: {sys.argv}", *(f"{key}: {value}" for key, value in facts.items()), ""]
