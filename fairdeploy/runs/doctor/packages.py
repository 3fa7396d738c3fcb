"""Installed versions, and packages that do not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata

Versions = Mapping[str, str | None]
"""By package; None where it is not installed."""

PACKAGES = (
    "fairdeploy", "torch", "torchvision", "timm", "numpy", "onnx", "onnxscript", "onnxruntime",
    "onnxruntime-gpu", "openvino", "nncf", "tensorrt", "tensorrt-rtx", "torch-tensorrt",
    "scikit-learn",
)  # fmt: skip

ONNX_RUNTIMES = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino",
    "onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-training",
)  # fmt: skip
"""Each is the package ``onnxruntime`` of one device, in the same folder."""

ONNX_TENSORRT_MAJOR, TORCH_TENSORRT_MAJOR = 10, 11


def installed_versions() -> dict[str, str | None]:
    """Of all that matters; other builds of ONNX Runtime only where they are installed."""
    names = dict.fromkeys((*PACKAGES, *ONNX_RUNTIMES))
    found = {name: _version(name) for name in names}
    return {name: found[name] for name in names if found[name] is not None or name in PACKAGES}


def conflicts(versions: Versions) -> Iterator[str]:
    """What cannot work together, each with what to do."""
    runtimes = [name for name in ONNX_RUNTIMES if versions.get(name)]
    if len(runtimes) > 1:
        yield (
            f"{' and '.join(runtimes)} are both installed and overwrite each other; "
            f"run pip uninstall -y {' '.join(runtimes)}, then pip install 'fairdeploy[cpu]' or, "
            "for an NVIDIA GPU, 'fairdeploy[gpu]'"
        )
    if versions.get("torch-tensorrt") and versions.get("onnxruntime-gpu"):
        yield (
            f"torch-tensorrt needs TensorRT {TORCH_TENSORRT_MAJOR} and the TensorRT provider of "
            f"onnxruntime-gpu needs TensorRT {ONNX_TENSORRT_MAJOR}, and only one can be installed; "
            "run pip uninstall -y torch-tensorrt here, and use it in an environment of its own"
        )


def major(version: str | None) -> int | None:
    """10 for ``10.3.0``; None where there is no number."""
    first = (version or "").partition(".")[0]
    return int(first) if first.isdecimal() else None


def _version(package: str) -> str | None:
    try:
        # None where the installation is damaged
        return metadata.version(package) or None
    except (metadata.PackageNotFoundError, ValueError, OSError, KeyError):
        return None
