"""Whole runs on a tiny network that distil, train, or keep to an accuracy."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.cli import app as cli
from fairdeploy.errors import AccuracyError, DataError, UsageError
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.runs.shrink import ShrinkResult, shrink
from fairdeploy.scoring.unit_scores import score_units
from fairdeploy.settings.options import ShrinkOptions
from tests.tiny_project import write_project


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


def run(project: Path, output: Path, **changes: Any) -> ShrinkResult:
    options: dict[str, Any] = {"budgets": ("60%",), "with_latency": False}
    model = str(project / "model.pt")
    return shrink(ShrinkOptions(model=model, output=output, **(options | changes)))


def test_distillation_is_a_step_of_its_own_in_every_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    with (tmp_path / "fairdeploy.toml").open("a") as file:
        file.write("max_test = 40\n")
    short = functools.partial(distil, block_steps=15, answer_steps=15)
    monkeypatch.setattr("fairdeploy.runs.stages.repair.distil", short)
    document = run(tmp_path, tmp_path / "out", recover="distil").document
    assert document["recovery"]["method"] == "least_squares"
    # The calibration images, and what test and selection leave; nobody looks at its labels.
    assert document["distillation"]["num_images"] == 60 + 15
    assert [tuple(row.values()) for row in document["data"]["purposes"]] == [
        ("calibration", 60, "given"), ("test", 30, "given"), ("selection", 15, "given"),
        ("training", 15, "none"),
    ]  # fmt: skip
    assert document["distillation"]["num_steps"] == 30
    verdict = document["distillation"]["verdict"]
    assert (verdict["measure"], verdict["num_images"]) == ("accuracy", 15)
    assert verdict["after"] >= verdict["before"]
    assert verdict["outcome"] in {"improved", "unclear", "kept"}
    assert document["accuracy"]["distilled"] is not None
    assert list(document["changes"]["by_step"]) == ["pruned", "recovered", "distilled", "exported"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Distilled without labels" in page
    assert "after distillation" in page


def test_changes_add_up_to_the_accuracies(project: Path, tmp_path: Path) -> None:
    document = run(project, tmp_path / "out").document
    accuracy, changes = document["accuracy"], document["changes"]
    for step, row in changes["by_step"].items():
        difference = accuracy[step]["value"] - accuracy["original"]["value"]
        assert row["value"] == pytest.approx(difference)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["num_gained"] - row["num_lost"] == round(60 * difference)
    right = sum(row["num_right_after"] for row in changes["by_class"])
    assert right == round(60 * accuracy["exported"]["value"])
    assert sum(row["num_images"] for row in changes["by_class"]) == 60
    assert [(row["purpose"], row["num_images"]) for row in document["data"]["purposes"]] == [
        ("calibration", 60), ("test", 60),
    ]  # fmt: skip


def test_training_uses_what_is_left_and_is_reported(project: Path, tmp_path: Path) -> None:
    document = run(project, tmp_path / "out", finetune=2, batch_size=10, num_selection=20).document
    row = document["tuning"]
    assert (row["num_images"], row["num_selection"], row["epochs_asked"]) == (30, 15, 2)
    assert [epoch["epoch"] for epoch in row["epochs"]] == [0, 1, 2]
    assert document["accuracy"]["tuned"] is not None
    assert document["accuracy"]["num_images"] == 15
    assert [row["purpose"] for row in document["data"]["purposes"]] == [
        "calibration", "test", "selection", "training",
    ]  # fmt: skip
    page = " ".join((tmp_path / "out" / "report.html").read_text().split())
    assert "best of all on 15 selection images" in page


def test_smallest_network_within_a_drop_is_found_and_written(project: Path, tmp_path: Path) -> None:
    document = run(project, tmp_path / "out", budgets=None, max_drop=0.6).document
    gate = document["max_drop"]
    trials, chosen = gate["search"]["trials"], gate["search"]["chosen"]
    assert gate["passed"]
    assert gate["difference"]["num_images"] == 30
    assert gate["difference"]["low"] >= -0.6
    assert trials[chosen]["cost"] == min(t["cost"] for t in trials if t["is_within"])
    assert document["model"]["shrunk"]["params"] == trials[chosen]["cost"]
    assert document["budget"] == []
    assert "networks that were tried" in (tmp_path / "out" / "report.html").read_text()


def test_no_network_within_the_drop_writes_nothing(project: Path, tmp_path: Path) -> None:
    # 30 images leave a doubt of 6 points even where every answer is the same.
    with pytest.raises(AccuracyError, match=r"stays within --max-drop 0\.01"):
        run(project, tmp_path / "out", budgets=None, max_drop=0.01, recover="none")
    assert not (tmp_path / "out").exists()


def test_gate_beside_a_budget_fails_with_exit_code_5_and_keeps_the_result(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["shrink", str(project / "model.pt"), "--budget", "50%", "--no-latency", "-o"]
    code = cli.run([*arguments, str(output), "--max-drop", "0%", "--recover", "none"])
    assert code == 5
    printed = capsys.readouterr()
    (line,) = [text for text in printed.err.splitlines() if text.startswith("error:")]
    assert "by more than --max-drop 0% allows" in line
    assert str(output) in line
    document = json.loads((output / "report.json").read_text())
    assert document["max_drop"]["images"] == "test"
    assert not document["max_drop"]["passed"]
    assert "drop of accuracy on the test images" in (output / "report.html").read_text()
    code = cli.run([*arguments, str(tmp_path / "kept"), "--max-drop", "90%"])
    assert code == 0
    assert "max drop" in capsys.readouterr().out


def test_max_drop_without_labelled_images_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--max-drop needs labelled"):
        run(project, tmp_path / "out", max_drop=0.01, data=str(unlabelled(tmp_path)))
    with pytest.raises(DataError, match="--max-drop needs labelled"):
        run(project, tmp_path / "out", budgets=None, max_drop=0.01, data=str(unlabelled(tmp_path)))


def unlabelled(folder: Path) -> Path:
    random = np.random.default_rng(0)
    path = folder / "unlabelled.npz"
    np.savez(path, images=random.integers(0, 255, (80, 8, 8, 3)).astype(np.uint8))
    return path


def test_options_that_contradict_each_other_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no budget given; add --budget 40%.* or --max-drop 1%"):
        run(project, tmp_path / "out", budgets=None)
    with pytest.raises(UsageError, match="--smallest macs says what --max-drop makes smallest"):
        run(project, tmp_path / "out", smallest="macs", max_drop=0.1)


def test_pruning_in_steps_meets_the_budget_and_keeps_what_went(
    project: Path, tmp_path: Path
) -> None:
    result = run(project, tmp_path / "out", steps=3, attention="none")
    document = result.document
    assert document["budget"][0]["met"]
    assert document["proof"]["passed"]
    steps = [name for name in document["stage_seconds"] if name.startswith("step ")]
    assert steps == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert document["accuracy"]["recovered"] is not None
    with pytest.raises(UsageError, match="--steps goes with a --budget of parameters"):
        run(project, tmp_path / "never", steps=2, budgets=None, max_drop=0.1)


def test_every_step_is_scored_by_the_signals_that_were_asked_for(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, object]] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append((options.get("signal"), options.get("protect")))
        return score_units(*arguments, **options)

    monkeypatch.setattr("fairdeploy.runs.search.steps.score_units", recorded)
    run(project, tmp_path / "out", steps=3, signal="l2", protect="none", recover="none")
    assert asked == [("l2", "none")] * 2
