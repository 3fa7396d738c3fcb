"""The machine and the versions that a result was made with; it means little without them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "fairdeploy", "torch", "torchvision", "timm", "numpy",
    "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Versions, platform, processor, usable cores and the load average of the last minute."""
    return {
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def package_versions() -> dict[str, str]:
    """Version of each package that shapes the result, if it is installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name; the architecture where the system does not tell it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in reversed(lines))
    facts = {key.strip().lower(): value.strip() for key, _, value in pairs}
    # On x86 "model" is a bare number; on ARM boards it is the board's name.
    for key in ("model name", "model", "hardware"):
        name = facts.get(key, "")
        if name and not name.isdecimal():
            return name
    return platform.processor() or platform.machine()
