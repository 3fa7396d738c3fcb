"""What machine this is, as far as it bears on a measurement, and on which cores it is made.

This file needs Python 3.8, nothing else, so that a copy of it runs on any device. It imports
nothing of fairdeploy.
"""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CPUFREQ = Path("sys/devices/system/cpu/cpu0/cpufreq")
_CONTAINER_MARKS = (Path(".dockerenv"), Path("run/.containerenv"))
_KHZ_PER_MHZ = 1e3


class AffinityError(ValueError):
    """The process cannot be held on these cores."""


def device_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Processor, usable cores, governor, clocks and surroundings; None where it is not told.

    Args:
        root: Where ``proc`` and ``sys`` lie; for tests.
    """
    return {
        "cpu": cpu_model(root / "proc/cpuinfo"),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": usable_cores(),
        "governor": _line_of(root / _CPUFREQ / "scaling_governor"),
        "clock_mhz": _mhz(root / _CPUFREQ / "scaling_cur_freq"),
        "max_clock_mhz": _mhz(root / _CPUFREQ / "cpuinfo_max_freq"),
        "surroundings": _surroundings(root),
    }


def load_average() -> float | None:
    """Processes that wanted a core in the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name; the architecture where the system does not tell it."""
    facts = _cpuinfo(cpuinfo)
    # On x86 "model" is a bare number; on ARM boards it is the board's name.
    for key in ("model name", "model", "hardware"):
        name = facts.get(key, "")
        if name and not name.isdecimal():
            return name
    return platform.processor() or platform.machine()


@contextmanager
def held_on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Let this thread, and those that it starts, use these cores only; empty: as it is.

    Raises:
        AffinityError: The process may not use one of them, or the system cannot do it.
    """
    if not cores:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise AffinityError("this system cannot hold a process on chosen cores; leave affinity out")
    before = os.sched_getaffinity(0)
    missing = sorted(set(cores) - before)
    if missing:
        raise AffinityError(
            f"affinity names core {missing[0]}, which this process may not use; it may use "
            f"{', '.join(str(core) for core in sorted(before))}"
        )
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cpuinfo(path: Path) -> dict[str, str]:
    """Facts of the first processor, keys in lower case."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in reversed(lines))
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _surroundings(root: Path) -> str:
    """``container``, ``virtual machine``, both, or nothing known of either."""
    found = []
    if any((root / mark).exists() for mark in _CONTAINER_MARKS):
        found.append("container")
    if "hypervisor" in _cpuinfo(root / "proc/cpuinfo").get("flags", "").split():
        found.append("virtual machine")
    return " in a ".join(found) or "no container or virtual machine seen"


def _mhz(path: Path) -> float | None:
    text = _line_of(path)
    return float(text) / _KHZ_PER_MHZ if text is not None and text.isdecimal() else None


def _line_of(path: Path) -> str | None:
    """The first line, None where the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
