"""Machines that a doctor may be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairdeploy.deployment.devices.gpu_facts import Gpu, GpuSurvey
from fairdeploy.runs.doctor.findings import Answer, Findings

NO_GPU = GpuSurvey((), "no NVIDIA GPU and no driver seen")
H100 = GpuSurvey((Gpu("NVIDIA H100", "580.65", 81559, "9.0"),), None)
TORCH = Answer({"version": "2.13.0+cpu", "cuda": None, "sees_gpu": False})
CUDA_TORCH = Answer({"version": "2.13.0+cu130", "cuda": "13.0", "sees_gpu": True})
ONNXRUNTIME = Answer({"version": "1.32.0", "providers": ["CPUExecutionProvider"]})


def machine(
    versions: Mapping[str, str | None],
    runtimes: Mapping[str, Answer] | None = None,
    *,
    gpus: GpuSurvey = NO_GPU,
    exporters: Mapping[str, str | None] | None = None,
    targets: Mapping[str, str | None] | None = None,
    standing: Answer | None = None,
    has_ssh: bool = True,
) -> Findings:
    """One with these packages; its exporters and targets work unless told otherwise."""
    found: dict[str, Any] = {
        "exporters": dict(exporters) if exporters is not None else {"onnx": None},
        "targets": [
            {"name": name, "problem": problem}
            for name, problem in (targets or {"cpu": None, "cuda": "no CUDA"}).items()
        ],
    }
    return Findings(
        {"torch": "2.13.0", **versions},
        gpus,
        {"torch": TORCH, **(runtimes or {})},
        standing or Answer(found),
        has_ssh,
    )
