"""Whole runs whose steps do harm: what was there before comes back, and is said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from fairdeploy.cli import app as cli
from fairdeploy.records import RecoverySummary
from fairdeploy.recovery.training import distillation
from tests.recovery.shrunk_networks import with_varied_answers

COUNT = 400
FACTORY = """
from tests.recovery.shrunk_networks import SmallResidual

def build():
    return SmallResidual()
"""


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has all images right: their labels are its own answers."""
    folder = tmp_path_factory.mktemp("project")
    module = with_varied_answers()
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
    with torch.no_grad():
        inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.3
        module.head.bias.sub_(module(inputs).mean(0))
        labels = module(inputs).argmax(1).numpy()
    torch.save(module.state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    np.savez(folder / "images.npz", images=images, labels=labels)
    (folder / "fairdeploy.toml").write_text(
        'arch = "arch.py:build"\ninput_size = 8\ndata = "images.npz"\nnum_calibration = 80\n'
        "max_test = 100\nmean = [0.5, 0.5, 0.5]\nstd = [0.3, 0.3, 0.3]\n"
    )
    return folder


@pytest.fixture(autouse=True)
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def shrunk(output: Path, *options: str, budget: str = "70%") -> dict[str, Any]:
    arguments = ["shrink", "model.pt", "--budget", budget, "--no-latency", "-o", str(output)]
    assert cli.run([*arguments, *options]) == 0
    document: dict[str, Any] = json.loads((output / "report.json").read_text())
    return document


def test_a_repair_that_does_harm_is_undone_and_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def harm(graph: object, network: fx.GraphModule, *_: object, **__: object) -> RecoverySummary:
        with torch.no_grad():
            network.get_parameter("head.weight").zero_()
        return RecoverySummary("least_squares", (), 80, 0.0)

    monkeypatch.setattr("fairdeploy.runs.stages.repair.fit_least_squares", harm)
    document = shrunk(tmp_path / "out")
    verdict = document["recovery"]["verdict"]
    # What test and calibration leave is all there is to choose with.
    assert (verdict["outcome"], verdict["measure"], verdict["num_images"]) == (
        "kept", "accuracy", COUNT - 80 - 100,
    )  # fmt: skip
    assert document["accuracy"]["recovered"] == document["accuracy"]["pruned"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "repaired no: nothing was better on 220 selection images" in printed
    assert "nothing was better on" in (tmp_path / "out" / "report.html").read_text()


def test_a_repair_that_helps_is_kept_and_its_gain_is_told_on_selection_and_test_images(
    tmp_path: Path,
) -> None:
    document = shrunk(tmp_path / "out", budget="45%")
    verdict = document["recovery"]["verdict"]
    assert verdict["outcome"] == "improved"
    assert verdict["after"] > verdict["before"]
    accuracy, since = document["accuracy"], document["changes"]["since_last"]
    assert list(since) == ["pruned", "recovered", "exported"]
    gain = accuracy["recovered"]["value"] - accuracy["pruned"]["value"]
    assert since["recovered"]["value"] == pytest.approx(gain)
    assert gain > 0
    assert since["exported"]["value"] == 0.0


def test_where_nothing_is_left_the_images_that_were_fitted_to_judge_and_that_is_said(
    tmp_path: Path,
) -> None:
    document = shrunk(tmp_path / "out", "--num-calibration", "300")
    verdict = document["recovery"]["verdict"]
    assert (verdict["num_images"], verdict["are_fitted"]) == (300, True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "calibration images" in page
    assert "which it is fitted to" in page


def test_a_distillation_that_does_harm_leaves_what_least_squares_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distillation, "LOW_RATE", 100.0)
    monkeypatch.setattr(distillation, "BLOCK_STEPS", 3)
    monkeypatch.setattr(distillation, "MAX_MACS", 1.0)  # the fewest steps
    document = shrunk(tmp_path / "out", "--recover", "distil")
    verdict = document["distillation"]["verdict"]
    assert (verdict["outcome"], verdict["num_images"]) == ("kept", 80)
    assert document["accuracy"]["distilled"] == document["accuracy"]["recovered"]
    counts = {row["purpose"]: row["num_images"] for row in document["data"]["purposes"]}
    assert counts == {"calibration": 80, "test": 100, "selection": 80, "training": 140}
    assert "the weights stay as they were" in " ".join(capsys.readouterr().out.split())


def test_a_training_that_does_harm_leaves_what_the_repair_gave(tmp_path: Path) -> None:
    document = shrunk(tmp_path / "out", "--finetune", "2", "--learning-rate", "1")
    tuning = document["tuning"]
    assert (tuning["best_epoch"], tuning["verdict"]["outcome"]) == (0, "kept")
    assert document["accuracy"]["tuned"] == document["accuracy"]["recovered"]
