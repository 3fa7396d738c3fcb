"""The machine and the versions that a result was made with; it means little without them."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from fairdeploy.deployment.devices.device_facts import cpu_model, load_average, usable_cores

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
        "cores": usable_cores(),
        "load_average": load_average(),
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
