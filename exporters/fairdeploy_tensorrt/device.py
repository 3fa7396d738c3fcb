"""The GPU that engines are built for and run on, through torch's CUDA."""

from __future__ import annotations

import torch

from fairdeploy.deployment.devices.gpu_facts import survey_gpus
from fairdeploy.errors import ExportError


def gpu_name() -> str:
    """``NVIDIA H100 (9.0)``; "" where there is none."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} ({major}.{minor})"
    first = next(iter(survey_gpus().gpus), None)
    return f"{first.name} ({first.compute_capability})" if first else ""


def missing_for_running() -> str | None:
    """None if engines can run here, else what is missing."""
    if torch.cuda.is_available():
        return None
    problem = survey_gpus().problem
    if problem is not None:
        return f"running engines needs an NVIDIA GPU and its driver: {problem}"
    return (
        f"running engines needs a torch that is built for CUDA, and this one is "
        f"{torch.__version__}; install torch for your CUDA version"
    )


def require_gpu() -> None:
    """Raise unless engines can run here.

    Raises:
        ExportError: There is no GPU, no driver, or torch cannot use it.
    """
    missing = missing_for_running()
    if missing is not None:
        raise ExportError(missing)
