"""What every target profile that comes with the product must hold to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fairdeploy.deployment.latency import MIN_PAIRS, compare_latency
from fairdeploy.inputs.target_profiles import load_profile
from fairdeploy_onnx import OnnxExporter
from tests.exporters.captured_networks import EXAMPLE, captured

PROFILES = sorted((Path(__file__).parents[2] / "profiles").glob("*.toml"))


@pytest.fixture(params=PROFILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profiles") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, file, dynamic_batch=True, metadata={})
    return file


def test_there_are_profiles() -> None:
    assert "cpu" in [path.stem for path in PROFILES]


def test_a_profile_asks_for_a_measurement_that_means_something(path: Path) -> None:
    profile = load_profile(str(path))
    assert profile.name == path.stem
    assert profile.description
    assert profile.min_pairs >= MIN_PAIRS
    assert 0 < profile.ratio_interval <= 0.1
    assert 0 < profile.parity_limit <= 1e-2
    assert profile.warmup_seconds < profile.max_seconds


def test_a_profile_opens_and_races_a_network_where_its_provider_exists(
    path: Path, file: Path
) -> None:
    profile = load_profile(str(path))
    if profile.runtime != "onnx" or profile.precision != "fp32":
        pytest.skip("needs another exporter")
    if not set(profile.providers) <= set(onnxruntime.get_available_providers()):
        pytest.skip(f"needs {', '.join(profile.providers)}")
    images = np.zeros((profile.batch, 3, 8, 8), dtype=np.float32)
    result = compare_latency(
        lambda: OnnxExporter().open(file, profile),
        lambda: OnnxExporter().open(file, profile),
        (images,), profile, seed=0,
    )  # fmt: skip
    assert result.target == path.stem
    assert 0.5 < result.speedup < 2.0  # the same file twice
    assert len(result.original.raw_ms) >= profile.min_pairs
