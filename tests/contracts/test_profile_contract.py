"""What every target profile that comes with the product must hold to."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fairdeploy.deployment.exporter_api import get_exporter, load_exporters, unusable_because
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.deployment.latency.race import MIN_PAIRS
from fairdeploy.errors import ExportError
from fairdeploy.records import TargetProfile, default_multiple
from fairdeploy.settings.target_profiles import list_profiles, load_profile
from fairdeploy_onnx import OnnxExporter
from tests.exporters.captured_networks import EXAMPLE, captured

PROFILES = list_profiles()


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def profile(request: pytest.FixtureRequest) -> TargetProfile:
    assert isinstance(request.param, TargetProfile)
    return request.param


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profiles") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, file, dynamic_batch=True, metadata={})
    return file


def test_every_promised_device_has_a_profile() -> None:
    assert {profile.name for profile in PROFILES} >= {
        "cpu", "cpu-1thread", "cpu-throughput", "cuda", "cuda-fp16", "tensorrt-fp16",
        "jetson-orin", "raspberry-pi", "openvino-cpu", "openvino-cpu-bf16", "onnx-tensorrt",
        "tensorrt-rtx",
    }  # fmt: skip


def test_a_profile_asks_for_a_measurement_that_means_something(profile: TargetProfile) -> None:
    assert load_profile(profile.name) == profile
    assert profile.description
    assert profile.min_pairs >= MIN_PAIRS
    assert 0 < profile.ratio_interval <= 0.1
    assert 0 < profile.parity_limit <= 1e-2
    assert profile.warmup_seconds < profile.max_seconds
    assert profile.idle_gap_ms is None or profile.idle_gap_ms <= 100
    assert default_multiple(profile) >= 1


def test_whether_a_profile_is_usable_is_what_opening_a_file_shows(
    profile: TargetProfile, file: Path, tmp_path: Path
) -> None:
    problem = unusable_because(profile, load_exporters())
    if profile.runtime not in load_exporters():
        assert problem == f"no exporter '{profile.runtime}' is installed"
        return
    if profile.machine not in (None, platform.machine()):
        assert problem == (
            f"it is an {profile.machine} device and this is {platform.machine()}; measure there, "
            "with --host"
        )
        return
    try:
        exporter = get_exporter(profile.runtime)
        if profile.runtime != "onnx" and problem is None:
            file = tmp_path / f"model{exporter.file_suffix}"
            exporter_for(profile).export(captured(), EXAMPLE, file, dynamic_batch=True, metadata={})
        exporter.open(file, profile).close()
    except ExportError:
        assert problem
    else:
        assert problem is None


def test_a_profile_opens_and_races_a_network_where_its_provider_exists(
    profile: TargetProfile, file: Path
) -> None:
    if profile.runtime != "onnx" or profile.precision != "fp32":
        pytest.skip("needs another exporter")
    if profile.machine not in (None, platform.machine()):
        pytest.skip(f"needs an {profile.machine} device")
    if not set(profile.providers) <= set(onnxruntime.get_available_providers()):
        pytest.skip(f"needs {', '.join(profile.providers)}")
    profile = replace(profile, warmup_seconds=0.1, max_seconds=0.5)
    images = np.zeros((profile.batch, 3, 8, 8), dtype=np.float32)
    result = compare_latency(
        lambda: OnnxExporter().open(file, profile),
        lambda: OnnxExporter().open(file, profile),
        (images,), profile, seed=0,
    )  # fmt: skip
    assert result.target == profile.name
    assert result.speedup_low <= result.speedup <= result.speedup_high
    assert len(result.original.raw_ms) >= MIN_PAIRS
