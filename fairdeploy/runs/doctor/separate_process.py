"""Tries Python code in a process of its own, where it may crash or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 300.0
"""On a busy machine the first import after an installation takes minutes."""

_MARK = "fairdeploy-answer:"
_ENDING = f"\nimport json as _json\nprint('\\n{_MARK}' + _json.dumps(answer))\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the code left in ``answer``, or what went wrong in one line."""

    value: Any = None
    problem: str | None = None
    is_late: bool = False
    """Whether the code might have ended well with more time."""


Ask = Callable[[str], Answer]


def ask_python(code: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Run ``code``, which leaves something that JSON can hold in a variable ``answer``.

    Never raises; what the code prints is dropped.
    """
    try:
        done = subprocess.run(
            # -P: a file in the current folder must not pass for a library
            [sys.executable, "-P", "-c", code + _ENDING],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False,
            text=True, errors="replace", env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(problem=f"does not answer within {timeout_s:g} s", is_late=True)
    except OSError as error:
        return Answer(problem=f"cannot be tried: {error.strerror or error}")
    if done.returncode < 0:
        return Answer(problem=f"crashes ({_signal_name(-done.returncode)})")
    marked = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not marked:
        return Answer(problem=_last_line(done.stderr) or f"ends with exit code {done.returncode}")
    try:
        return Answer(json.loads(marked[-1].removeprefix(_MARK)))
    except ValueError:
        return Answer(problem="answers with something unreadable")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
