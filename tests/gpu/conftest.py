"""The device that ``-m gpu`` tests run on; ``FAIRDEPLOY_GPU_TESTS=cpu`` tries them without one."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from fairdeploy.deployment.devices.gpu_facts import survey_gpus
from fairdeploy.deployment.exporter_api import load_exporters, unusable_because
from fairdeploy.records import TargetProfile
from fairdeploy.settings.target_profiles import load_profile


@pytest.fixture(scope="session")
def device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("FAIRDEPLOY_GPU_TESTS") == "cpu":
        return "cpu"
    pytest.skip(survey_gpus().problem or f"torch {torch.__version__} is built without CUDA")


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def target(request: pytest.FixtureRequest, device: str) -> TargetProfile:
    """ONNX Runtime on the device, in either precision."""
    found = replace(load_profile(device), precision=request.param, parity_limit=2e-2)
    problem = unusable_because(found, load_exporters())
    if problem is not None:
        pytest.skip(problem)
    return found
