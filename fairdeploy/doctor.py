"""What is installed, what works here, and what to install for what does not."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from fairdeploy.deployment.exporter_api import load_exporters
from fairdeploy.deployment.usability import unusable_because
from fairdeploy.errors import FairdeployError
from fairdeploy.inputs.target_profiles import list_profiles
from fairdeploy.torchvision_compat import ensure_torchvision

PACKAGES = (
    "fairdeploy", "torch", "torchvision", "timm", "numpy", "onnx", "onnxscript", "onnxruntime",
    "onnxruntime-gpu", "scikit-learn",
)  # fmt: skip
_EXCLUSIVE = ("onnxruntime", "onnxruntime-gpu")


def examine() -> dict[str, Any]:
    """Versions by package (None where it is not installed), exporters, and problems in words."""
    versions = {name: _version(name) for name in PACKAGES}
    exporters = {name: exporter.is_available() for name, exporter in load_exporters().items()}
    problems = [f"{name}: {reason}" for name, reason in exporters.items() if reason is not None]
    if not exporters:
        problems.append("no exporter is registered; install fairdeploy again with pip")
    if all(versions[name] for name in _EXCLUSIVE):
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "run pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        )
    try:
        ensure_torchvision()
    except FairdeployError as error:
        problems.append(str(error))
    return {
        "python": platform.python_version(),
        "packages": versions,
        "exporters": {name: reason or "usable" for name, reason in exporters.items()},
        "problems": problems,
    }


def target_rows() -> list[dict[str, Any]]:
    """One row for each shipped profile; ``problem`` is null where it is usable."""
    exporters = load_exporters()
    rows = []
    for profile in list_profiles():
        problem = unusable_because(profile, exporters)
        rows.append({"name": profile.name, "description": profile.description, "problem": problem})
    return rows


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
