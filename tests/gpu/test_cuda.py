"""ONNX Runtime's CUDA provider and engines give what torch gives; run with ``-m gpu``."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairdeploy.deployment.exporter_api import load_exporters, unusable_because
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.records import TargetProfile
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.target_profiles import load_profile
from tests.exporters.captured_networks import EXAMPLE, captured
from tests.tiny_project import write_project

pytestmark = pytest.mark.gpu

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LIMITS = {"fp32": 1e-3, "fp16": 2e-2}
"""Relative to the largest output; fp32 is TF32 on newer GPUs."""
ENGINES = ("tensorrt-rtx", "tensorrt-fp16", "onnx-tensorrt")


@pytest.mark.parametrize("kind", ["plain", "residual", "grouped", "attention"])
def test_an_exported_file_gives_torch_s_outputs_for_one_image_and_for_many(
    target: TargetProfile, kind: str, tmp_path: Path
) -> None:
    _require_parity(target, kind, tmp_path)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_torch_s_outputs_for_one_image_and_for_many(
    device: str, name: str, tmp_path: Path
) -> None:
    target = load_profile(name)
    problem = unusable_because(target, load_exporters())
    if problem is not None:
        pytest.skip(problem)
    _require_parity(target, "residual", tmp_path)


def test_a_race_names_provider_and_versions(target: TargetProfile, tmp_path: Path) -> None:
    exporter = exporter_for(target)
    path = tmp_path / f"model{exporter.file_suffix}"
    exporter.export(captured("plain"), EXAMPLE, path, dynamic_batch=True, metadata={})
    quick = replace(target, warmup_seconds=0.1, min_pairs=20, max_seconds=2.0)
    found = compare_latency(
        lambda: exporter.open(path, quick),
        lambda: exporter.open(path, quick),
        (IMAGES[:1].numpy(),),
        quick,
        seed=0,
    )
    assert set(target.providers) <= set(found.providers)
    assert found.device is not None
    assert "onnxruntime" in found.device.versions
    assert 0.5 < found.speedup < 2  # the same file twice


def test_shrink_for_the_device_writes_a_file_that_passes(
    target: TargetProfile, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))
    write_project(tmp_path)
    options = ShrinkOptions(
        model=str(tmp_path / "model.pt"), output=tmp_path / "out", budgets=("80%",),
        target="cuda-fp16" if (device, target.precision) == ("cuda", "fp16") else device,
        with_latency=False,
    )  # fmt: skip
    document = shrink(options).document
    assert document["chain"]["passed"]


def test_torch_on_the_device_gives_what_torch_on_the_cpu_gives(device: str) -> None:
    module = captured("residual")
    expected = module(IMAGES).detach().numpy()
    moved = copy.deepcopy(module).to(device)
    got = moved(IMAGES.to(device)).detach().cpu().numpy()
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()


def _require_parity(target: TargetProfile, kind: str, folder: Path) -> None:
    exporter = exporter_for(target)
    path = folder / f"model{exporter.file_suffix}"
    exporter.export(captured(kind), EXAMPLE, path, dynamic_batch=True, metadata={})
    runner = exporter.open(path, target)
    try:
        require_parity(
            check_parity(
                runner, captured(kind), path.name, IMAGES,
                batches=(1, 32), limit=LIMITS[target.precision],
            )
        )  # fmt: skip
    finally:
        runner.close()
