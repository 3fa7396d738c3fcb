"""The sweep on a tiny network: its points, its files, and that it leaves nothing half-done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fairdeploy
from fairdeploy.deployment.devices import local_device
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.errors import BudgetError, DeviceLostError, OutputError, ParityError
from fairdeploy.records import LatencyComparison, LatencyStats, ProofResult
from fairdeploy.runs import problem
from fairdeploy.runs import run as run_module
from fairdeploy.runs import shrink as pipeline
from fairdeploy.runs.progress import Progress
from fairdeploy.runs.stages import groups as scored_groups
from fairdeploy.runs.stages import removal as removal_stage
from fairdeploy.runs.stages.multiples import Multiple, resolve_multiple
from fairdeploy.runs.sweep import SweepResult, sweep
from fairdeploy.runs.sweep.run import shortened
from fairdeploy.settings.options import ShrinkOptions, SweepOptions
from tests.deployment.fakes import WorkingExporter, profile
from tests.progress_recorder import RecordedProgress, RecordedStage
from tests.reporting.test_html_report import Page
from tests.tiny_project import network, write_project

POINT_KEYS = {
    "name", "budget", "also_for", "plan", "command", "costs", "left", "tolerance",
    "num_removed_units", "r_mass_removed_share", "proof", "accuracy", "latency", "seconds",
    "non_dominated", "is_knee", "difference",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose scores stay cached for all tests of this module."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


def run(
    project: Path, output: Path, progress: Progress | None = None, **changes: Any
) -> SweepResult:
    options: dict[str, Any] = {"with_latency": False, "command": ("fairdeploy", "sweep", "m.pt")}
    model = str(project / "model.pt")
    return sweep(SweepOptions(model=model, output=output, **(options | changes)), progress)


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """One sweep that several tests look at."""
    return run(project, tmp_path_factory.mktemp("results") / "out", points=4)


def num_params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_costs_fall_from_the_original_and_are_those_of_the_plans(finished: SweepResult) -> None:
    points = finished.document["points"]
    assert points[0]["name"] == "original"
    assert points[0]["costs"]["params"] == num_params(network())
    assert len(points) == 5
    costs = [point["costs"]["params"] for point in points]
    assert costs == sorted(set(costs), reverse=True)
    for point in points[1:]:
        small = fairdeploy.apply(network(), finished.output / point["plan"])
        assert num_params(small) == point["costs"]["params"]
        assert point["left"]["params"] == point["costs"]["params"] / costs[0]
        assert point["left"]["params"] <= float(point["budget"][len("params=") : -1]) / 100
    assert costs[-1] >= finished.document["reachable"]["smallest"]
    assert finished.document["reachable"]["original"] == costs[0]


def test_file_has_every_promised_key(finished: SweepResult) -> None:
    document = json.loads((finished.output / "sweep.json").read_text())
    assert document == finished.document
    assert (document["schema_version"], document["kind"]) == (1, "sweep")
    assert document.keys() >= {
        "command", "seed", "created_at", "model", "metric", "reachable", "quality", "points",
        "knee", "notes", "data", "target", "warnings", "stage_seconds", "environment",
        "num_test_images", "recovery",
    }  # fmt: skip
    for point in document["points"]:
        assert point.keys() == POINT_KEYS
        estimate = point["accuracy"]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert all(point["proof"]["passed"] for point in document["points"][1:])
    assert document["num_test_images"] == 60
    knees = [point["name"] for point in document["points"] if point["is_knee"]]
    assert knees == [name for name in [document["knee"]["point"]] if name]
    assert {path.name for path in finished.output.iterdir()} == {
        "plans", "sweep.html", "sweep.json",
    }  # fmt: skip


def test_page_shows_every_point(finished: SweepResult) -> None:
    page = Page((finished.output / "sweep.html").read_text())
    for point in finished.document["points"]:
        name = point["budget"] or "original"
        assert name in page.text
        labels = [str(attrs.get("aria-label")) for tag, attrs in page.tags if tag == "svg"]
        assert sum(label.startswith(f"{name}: ") for label in labels) >= 1
        assert f"{100 * point['accuracy']['value']:.1f}\N{NO-BREAK SPACE}%" in "".join(page.texts)


def test_shrink_with_a_point_s_budget_makes_its_plan_without_scoring_again(
    project: Path, finished: SweepResult, tmp_path: Path
) -> None:
    point = finished.document["points"][2]
    assert f"--budget {point['budget']}" in point["command"]
    progress = RecordedProgress()
    result = pipeline.shrink(
        ShrinkOptions(
            model=str(project / "model.pt"), budgets=(point["budget"],), output=tmp_path / "out",
            with_latency=False,
        ),
        progress,
    )  # fmt: skip
    made = (result.output / "plan.json").read_bytes()
    assert made == (finished.output / point["plan"]).read_bytes()
    assert progress.notes()["score units"] == "from the cache"
    accuracy = result.document["accuracy"]["recovered"]
    assert accuracy == point["accuracy"]


def test_another_sweep_gives_the_same_plans_from_cached_scores(
    project: Path, finished: SweepResult, tmp_path: Path
) -> None:
    progress = RecordedProgress()
    again = run(
        project, tmp_path / "again", progress, points=4, recover="none", signal="reconstruction"
    )
    assert progress.notes()["score units"] == "from the cache"
    for path in (finished.output / "plans").iterdir():
        assert (again.output / "plans" / path.name).read_bytes() == path.read_bytes()


def test_each_point_has_one_line_of_progress(project: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    result = run(project, tmp_path / "out", progress, at=(80.0, 60.0), metric="macs")
    lines = [stage for stage in progress.stages if stage.name.startswith("point ")]
    assert [stage.name for stage in lines] == ["point 1 of 2", "point 2 of 2"]
    for stage, point in zip(lines, result.document["points"][1:], strict=True):
        assert stage.text == f"{point['budget']}  {point['accuracy']['value']:.2%}"
        assert stage.done == 3  # removal, repair, accuracy
    assert [point["budget"] for point in result.document["points"]] == [
        None, "macs=80%", "macs=60%",
    ]  # fmt: skip


def test_shares_out_of_reach_and_equal_plans_are_measured_once_and_told(
    project: Path, tmp_path: Path
) -> None:
    progress = RecordedProgress()
    result = run(project, tmp_path / "out", progress, at=(60.0, 59.999, 1.0, 0.5))
    points = result.document["points"]
    assert [point["name"] for point in points[:2]] == ["original", "params-60"]
    assert points[1]["also_for"] == ["params=59.999%"]
    assert len(points) == 3
    smallest = points[2]["budget"]
    assert (
        result.document["notes"]
        == progress.warnings
        == [
            "1%, 0.5% of the params is out of reach; measured instead at the smallest allowed "
            f"plan, {smallest}",
            "params=60%, params=59.999% give the same plan, measured once",
        ]
    )
    assert [point["is_knee"] for point in points].count(True) <= 1


def test_interrupt_leaves_the_plans_that_are_done_and_cached_scores(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))

    class Impatient(RecordedProgress):
        @contextmanager
        def stage(self, name: str, total: int | None = None) -> Iterator[RecordedStage]:
            if name == "point 2 of 3":
                raise KeyboardInterrupt
            with super().stage(name, total) as stage:
                yield stage

    (tmp_path / "results").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(project, tmp_path / "results" / "out", Impatient(), points=3)
    assert os.listdir(tmp_path / "results") == ["out-unfinished"]
    assert list((tmp_path / "results" / "out-unfinished").glob("**/*.json"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_failed_proof_ends_the_sweep_with_its_exit_code_and_only_plans(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ProofResult(0.5, 1e-5, 4, (1, 3))
    monkeypatch.setattr(removal_stage, "prove", lambda *_, **__: failed)
    with pytest.raises(ParityError, match="differs from the zeroed original") as caught:
        run(project, tmp_path / "out", points=2)
    assert caught.value.exit_code == 4
    assert os.listdir(tmp_path) == ["out-unfinished"]
    assert os.listdir(tmp_path / "out-unfinished") == ["plans"]


@pytest.fixture
def quick_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a network in them: here nothing of an exporter is tested."""
    monkeypatch.setattr(run_module, "exporter_for", lambda _: WorkingExporter())


@pytest.mark.usefixtures("quick_exporter")
def test_latency_is_a_share_of_the_original_with_its_interval(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = LatencyStats(2.0, 2.5, 3.0, 30.0, (2.0, 2.1))
    monkeypatch.setattr(
        local_device, "compare_latency",
        lambda _a, _b, _inputs, profile, **_: LatencyComparison(
            profile.name, 1, stats, stats, 2.0, 1.6, 2.5, "enough", ("CPU",), 0, 0.5, False
        ),
    )  # fmt: skip
    progress = RecordedProgress()
    result = run(project, tmp_path / "out", progress, at=(60.0,), with_latency=True, recover="none",
                 round_to=1)  # fmt: skip
    original, point = result.document["points"]
    assert original["latency"] is None
    measured = point["latency"]
    assert (measured["left_low"], measured["left"], measured["left_high"]) == (0.4, 0.5, 0.625)
    assert measured["speedup"] == 2.0
    assert measured["is_wide"]
    # The profile's 20 s, a quarter of it.
    assert result.document["target"]["max_seconds"] == 5.0
    assert progress.notes()["point 1 of 1"].endswith("%  2.00x")
    page = Page((tmp_path / "out" / "sweep.html").read_text())
    assert "2.00\N{MULTIPLICATION SIGN} as fast" in page.text
    assert result.document["knee"] == {
        "point": None, "reason": "a knee needs 3 points, there are 2", "command": None,
        "closer_command": None,
    }  # fmt: skip


@pytest.mark.usefixtures("quick_exporter")
def test_device_that_is_lost_costs_the_races_but_not_the_sweep(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    races: list[int] = []

    def lose(*_: object, **__: object) -> None:
        races.append(1)
        raise DeviceLostError("the device stopped answering")

    monkeypatch.setattr(local_device, "compare_latency", lose)
    result = run(project, tmp_path / "out", at=(80.0, 60.0), with_latency=True, recover="none",
                 round_to=1)  # fmt: skip
    assert len(races) == 1
    assert [point["latency"] for point in result.document["points"]] == [None] * 3
    assert result.document["warnings"] == [
        "this network and those after it were not raced: the device stopped answering"
    ]


def test_races_are_short_and_without_pauses() -> None:
    given = profile(warmup_seconds=0.5, max_seconds=20.0, idle_gap_ms=33.0)
    short = shortened(given)
    assert (short.warmup_seconds, short.max_seconds, short.idle_gap_ms) == (0.125, 5.0, None)
    assert (short.name, short.batch, short.min_pairs) == (given.name, given.batch, given.min_pairs)


def test_without_labels_the_share_of_r_scores_that_stays_is_the_quality(
    project: Path, tmp_path: Path
) -> None:
    images = np.load(project / "images.npz")["images"][:40]
    np.savez(tmp_path / "unlabelled.npz", images=images)
    result = run(
        project, tmp_path / "out", at=(80.0, 60.0, 40.0), data=str(tmp_path / "unlabelled.npz"),
        num_calibration=30,
    )  # fmt: skip
    document = result.document
    assert document["quality"] == "r_mass_kept"
    assert all(point["accuracy"] is None for point in document["points"])
    lost = [point["r_mass_removed_share"] for point in document["points"]]
    assert lost[0] == 0.0
    assert lost == sorted(lost)
    assert "Accuracy was not measured" in Page((result.output / "sweep.html").read_text()).text


def test_existing_folder_is_refused_before_the_model_is_read_and_force_replaces_it(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text("{}")
    with pytest.raises(OutputError, match="exists; choose another with --output, or add --force"):
        run(tmp_path / "no-such-project", tmp_path / "out")
    result = run(project, tmp_path / "out", force=True, at=(70.0,), recover="none")
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == result.document


def test_network_that_nothing_can_go_from_is_refused_before_images_are_read(
    tmp_path: Path,
) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)), tmp_path / "m.pt")
    options = SweepOptions(
        model=str(tmp_path / "m.pt"), data="no-such-images", input_shape=(3, 8, 8),
        with_latency=False,
    )  # fmt: skip
    with pytest.raises(BudgetError, match="nothing to sweep"):
        sweep(options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def coarse(number: int) -> Multiple:
    return Multiple(number, "measured", None, number)


@pytest.fixture
def raced_at_once(quick_exporter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = LatencyStats(2.0, 2.5, 3.0, 30.0, (2.0, 2.1))
    race = LatencyComparison(
        "cpu", 1, stats, stats, 2.0, 1.9, 2.1, "enough", ("CPU",), 0, 0.5, False
    )  # fmt: skip
    monkeypatch.setattr(local_device, "compare_latency", lambda *_, **__: race)


@pytest.mark.usefixtures("raced_at_once")
def test_measured_multiple_rounds_the_plans_and_shrink_makes_the_same_by_the_command(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def found(*_: object, may_measure: bool) -> Multiple:
        asked.append(may_measure)
        return coarse(16)

    monkeypatch.setattr(problem, "resolve_multiple", found)
    # in groups of six: steps of two
    monkeypatch.setattr(scored_groups, "MIN_STRICT_BLOCKS", 3)
    result = run(project, tmp_path / "out", at=(60.0,), with_latency=True, recover="none")
    assert asked == [True]
    assert result.document["channel_multiple"] == {
        "number": 16, "source": "measured", "is_cached": False,
    }  # fmt: skip
    assert result.document["target"]["channel_multiple"] == 16
    point = result.document["points"][1]
    assert f"--target {tmp_path / 'out' / 'target.toml'}" in point["command"]
    monkeypatch.setattr(problem, "resolve_multiple", resolve_multiple)
    monkeypatch.setattr(run_module, "exporter_for", exporter_for)
    made = pipeline.shrink(
        ShrinkOptions(
            model=str(project / "model.pt"), budgets=(point["budget"],), output=tmp_path / "one",
            target=str(tmp_path / "out" / "target.toml"), with_latency=False, recover="none",
        )
    )  # fmt: skip
    assert (made.output / "plan.json").read_bytes() == (result.output / point["plan"]).read_bytes()


@pytest.mark.usefixtures("raced_at_once")
def test_coarse_multiple_gives_way_to_a_share_that_it_cannot_reach(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem, "resolve_multiple", lambda *_, **__: coarse(64))
    monkeypatch.setattr(scored_groups, "MIN_STRICT_BLOCKS", 1)
    result = run(project, tmp_path / "out", at=(40.0,), with_latency=True, recover="none")
    assert result.document["channel_multiple"]["source"] == "budget"
    assert result.document["channel_multiple"]["number"] == 8
    assert not (result.output / "target.toml").exists()


def test_without_races_nothing_is_measured(finished: SweepResult) -> None:
    assert finished.document["channel_multiple"] == {
        "number": 8, "source": "not measured", "is_cached": False,
    }  # fmt: skip
    assert "channel multiple" not in finished.document["stage_seconds"]


def test_an_interrupted_sweep_keeps_its_plans_and_says_so(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fairdeploy.runs.sweep.run.PointMeter.measure", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(project, tmp_path / "out", points=2)
    kept = tmp_path / "out-unfinished"
    scores, files = sorted(caught.value.__notes__)
    assert scores == "the scores are kept, the same command does not score again"
    assert files == (
        f"what was finished is kept in '{kept}': plans, without sweep.json, sweep.html"
    )
    assert len(list((kept / "plans").glob("*.json"))) >= 1
    assert not (tmp_path / "out").exists()
