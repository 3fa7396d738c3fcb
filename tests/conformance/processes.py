"""Runs a command that may neither compute too long nor take too much memory (Linux only)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 2**20
_USER_TIME, _SYSTEM_TIME = 11, 12
"""Fields of ``/proc/PID/stat`` after the command's name."""
_MAX_WALL = 8.0
"""A process that waits for ever uses no CPU: it may take this many times the CPU limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may use."""

    cpu_s: float
    memory_mib: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended."""

    killed: str
    """Which limit it broke; empty if it ended by itself."""
    exit_code: int
    cpu_s: float
    seconds: float
    peak_mib: int


def run_limited(
    command: Sequence[str],
    limits: Limits,
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
) -> Outcome:
    """Run ``command`` in ``folder``; its output goes to ``log``.

    CPU time is limited, not the clock: how busy the machine is must not decide who passes.
    """
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    cpu_s, peak_mib, killed = 0.0, 0, ""
    try:
        while process.poll() is None:
            cpu_s, memory_mib = _usage(process.pid, cpu_s)
            peak_mib = max(peak_mib, int(memory_mib))
            killed = _broken_limit(cpu_s, memory_mib, time.perf_counter() - started, limits)
            if killed:
                break
            time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        exit_code = process.wait()
    seconds = time.perf_counter() - started
    return Outcome(killed, exit_code, round(cpu_s, 1), round(seconds, 1), peak_mib)


def _broken_limit(cpu_s: float, memory_mib: float, seconds: float, limits: Limits) -> str:
    if cpu_s > limits.cpu_s:
        return f"took more than {limits.cpu_s:.0f} CPU seconds"
    if memory_mib > limits.memory_mib:
        return f"took more than {limits.memory_mib:.0f} MiB"
    if seconds > limits.cpu_s * _MAX_WALL:
        return f"took more than {limits.cpu_s * _MAX_WALL:.0f} seconds, {cpu_s:.0f} of them CPU"
    return ""


def _usage(pid: int, cpu_s: float) -> tuple[float, float]:
    """CPU seconds and resident MiB now; the last known CPU seconds and 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return cpu_s, 0.0
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICK, pages * _PAGE / _MIB
