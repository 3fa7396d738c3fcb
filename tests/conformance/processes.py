"""Runs a process that may neither compute too long nor take too much memory (Linux only)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_POLL_S = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 2**20
_USER_TIME, _SYSTEM_TIME = 11, 12
"""Fields of ``/proc/PID/stat`` after the command's name."""
MAX_IDLE_S = 300.0
"""A process that used no CPU at all for so long waits for ever."""


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
    seconds: float
    peak_mib: int


class Running(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""

    def kill(self) -> None:
        """End it now, with all that it started, and wait until it has ended."""


class CommandProcess:
    """A command in a session of its own."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path) -> None:
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End the whole session."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class ForkedProcess:
    """A call in a fork of a server that has imported ``preload`` once: the imports cost seconds."""

    def __init__(
        self, target: Callable[..., None], arguments: tuple[object, ...], preload: str, log: Path
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        self._process = context.Process(
            target=_call_with_log, args=(target, arguments, str(log)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _call_with_log(target: Callable[..., None], arguments: tuple[object, ...], log: str) -> None:
    with open(log, "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    target(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()


def run_limited(start: Callable[[], Running], limits: Limits) -> Outcome:
    """Start a process and end it as soon as it breaks a limit.

    CPU time is limited, not the clock: how busy the machine is must not decide who passes.
    """
    started, process = time.perf_counter(), start()
    cpu_s, peak_mib, killed, last_busy = 0.0, 0, "", started
    try:
        while process.poll() is None and not killed:
            before = cpu_s
            cpu_s, memory_mib = _usage(process.pid, cpu_s)
            peak_mib = max(peak_mib, int(memory_mib))
            last_busy = time.perf_counter() if cpu_s > before else last_busy
            killed = _broken_limit(cpu_s, memory_mib, time.perf_counter() - last_busy, limits)
            if not killed:
                time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
    exit_code = process.poll()
    assert exit_code is not None
    return Outcome(killed, exit_code, round(time.perf_counter() - started, 1), peak_mib)


def _broken_limit(cpu_s: float, memory_mib: float, idle_s: float, limits: Limits) -> str:
    if cpu_s > limits.cpu_s:
        return f"took more than {limits.cpu_s:.0f} CPU seconds"
    if memory_mib > limits.memory_mib:
        return f"took more than {limits.memory_mib:.0f} MiB"
    if idle_s > MAX_IDLE_S:
        return f"waited for {MAX_IDLE_S:.0f} seconds after {cpu_s:.0f} CPU seconds"
    return ""


def _usage(pid: int, cpu_s: float) -> tuple[float, float]:
    """CPU seconds and resident MiB now; the last known CPU seconds and 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return cpu_s, 0.0
    return (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICK, pages * _PAGE / _MIB
