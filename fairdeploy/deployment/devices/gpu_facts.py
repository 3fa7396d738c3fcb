"""Which NVIDIA GPUs there are, and what is missing where they cannot be used.

Asks ``nvidia-smi``, and where that is not there the kernel; imports nothing heavy.
"""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_QUERY = ("name", "driver_version", "memory.total", "compute_cap")
_TIMEOUT_S = 20
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASSES = ("0x03",)
"""PCI classes of display and 3-D controllers."""

Ask = Callable[[Sequence[str]], str]
"""Runs a command; what it printed."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU, as its driver describes it."""

    name: str
    driver: str
    memory_mib: int | None
    compute_capability: str
    """``8.7``; "" where the driver is too old to tell."""


@dataclass(frozen=True, slots=True)
class GpuSurvey:
    """The GPUs that can be used, or why there are none."""

    gpus: tuple[Gpu, ...]
    problem: str | None


def survey_gpus(ask: Ask | None = None, root: Path = Path("/")) -> GpuSurvey:
    """What ``nvidia-smi`` tells; never raises.

    Args:
        ask: Runs the command; for tests.
        root: Where ``proc`` and ``sys`` lie; for tests.
    """
    arguments = ("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
    try:
        gpus = _parse((ask or _run)(arguments))
    except FileNotFoundError:
        return GpuSurvey((), _problem_without_tool(root))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return GpuSurvey((), f"nvidia-smi does not work: {_said(error)}")
    return GpuSurvey(gpus, None if gpus else "nvidia-smi lists no GPU")


def _run(arguments: Sequence[str]) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, errors="replace"
    )
    return done.stdout


def _parse(text: str) -> tuple[Gpu, ...]:
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row]
    return tuple(_gpu(row) for row in rows)


def _gpu(row: Sequence[str]) -> Gpu:
    if len(row) != len(_QUERY):
        raise ValueError(f"it printed '{', '.join(row)[:200]}'")
    name, driver, memory, capability = (cell.strip() for cell in row)
    return Gpu(
        name=name,
        driver=driver,
        memory_mib=int(memory) if memory.isdecimal() else None,
        compute_capability=capability if capability.replace(".", "").isdecimal() else "",
    )


def _problem_without_tool(root: Path) -> str:
    if (root / "proc/driver/nvidia/version").exists():
        return "there is an NVIDIA driver but no nvidia-smi; install the driver's utilities"
    if _has_nvidia_device(root / "sys/bus/pci/devices"):
        return "there is an NVIDIA GPU but no driver; install NVIDIA's driver for this system"
    return "no NVIDIA GPU and no driver seen"


def _has_nvidia_device(devices: Path) -> bool:
    def line(file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    return any(
        line(vendor) == _NVIDIA_VENDOR
        and line(vendor.with_name("class")).startswith(_DISPLAY_CLASSES)
        for vendor in devices.glob("*/vendor")
    )


def _said(error: Exception) -> str:
    """What the tool printed when it failed, else what went wrong; one line."""
    printed = ""
    if isinstance(error, subprocess.CalledProcessError):
        printed = f"{error.stdout or ''}\n{error.stderr or ''}"
    lines = [line.strip() for line in (printed.strip() or str(error)).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
