"""A whole run that is raced: its report says what each operator takes and what holds it back."""

from __future__ import annotations

import pytest
import torch

from fairdeploy.runs.shrink import ShrinkResult, shrink
from fairdeploy.settings.options import ShrinkOptions
from tests.random_networks import RandomNetwork, randomise

FACTORY = """
from tests.random_networks import RandomNetwork

def build():
    return RandomNetwork(("residual", "dense"), (16, 24), True)
"""
TARGET = """
description = "a quick race"
runtime = "onnx"
providers = ["CPUExecutionProvider"]
precision = "fp32"
batch = 2
threads = 1
channel_multiple = 2
warmup_seconds = 0.0
min_pairs = 20
max_seconds = 0.1
ratio_interval = 0.5
parity_limit = 1e-4
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ShrinkResult:
    folder = tmp_path_factory.mktemp("timed")
    network = randomise(RandomNetwork(("residual", "dense"), (16, 24), flatten=True), seed=4)
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    (folder / "quick.toml").write_text(TARGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return shrink(
            ShrinkOptions(
                model=str(folder / "model.pt"), budgets=("macs=70%",), output=folder / "out",
                arch=f"{folder}/arch.py:build", input_shape=8, num_calibration=16,
                target=str(folder / "quick.toml"), exclude=("stem",), command=("fairdeploy",),
            )
        )  # fmt: skip


def test_every_module_with_macs_is_timed_in_both_networks(finished: ShrinkResult) -> None:
    times = finished.document["operators"]
    layers = [row for row in times["by_operator"] if row["op"] in ("conv2d", "linear")]
    assert layers
    assert all(row["original_ms"] > 0 and row["shrunk_ms"] > 0 for row in layers)
    assert all(row["module"] for row in layers)
    known = sum(row["shrunk_ms"] for row in times["by_operator"] if row["node"])
    assert known >= 0.95 * times["shrunk_ms"]
    stages = list(finished.document["stage_seconds"])
    assert stages[stages.index("latency") + 1] == "operators"


def test_the_promise_is_that_of_the_macs(finished: ShrinkResult) -> None:
    sizes = finished.document["model"]
    expected = sizes["original"]["macs"] / sizes["shrunk"]["macs"]
    why = finished.document["why_not_faster"]
    assert why["promised_speedup"] == pytest.approx(expected, rel=1e-3)
    assert why["speedup"] == finished.document["latency"]["speedup"]
    assert "Why not faster" in (finished.output / "report.html").read_text()
