"""A latency budget through the whole job, on a device whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import fairdeploy
from fairdeploy.errors import BudgetError, DeviceLostError, MeasurementError
from fairdeploy.records import LatencyComparison
from fairdeploy.runs import problem
from fairdeploy.runs import shrink as pipeline
from fairdeploy.runs.shrink import ShrinkResult
from fairdeploy.runs.stages import groups as scored_groups
from fairdeploy.runs.stages.multiples import Multiple
from fairdeploy.settings.options import ShrinkOptions
from tests.progress_recorder import RecordedProgress
from tests.sized_device import SizedDevice, measure_on_sized_device, weight_count
from tests.tiny_project import write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SizedDevice:
    return measure_on_sized_device(monkeypatch)


def run(project: Path, output: Path, budget: str, **changes: Any) -> ShrinkResult:
    options: dict[str, Any] = {"recover": "none", "round_to": 1, "command": ("fairdeploy",)}
    return pipeline.shrink(
        ShrinkOptions(
            model=str(project / "model.pt"), output=output, budgets=(budget,), **options | changes
        ),
        RecordedProgress(),
    )


def row(result: ShrinkResult, metric: str) -> dict[str, Any]:
    return next(row for row in result.document["budget"] if row["metric"] == metric)


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ShrinkResult:
    """One run to 60 % of the latency that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        measure_on_sized_device(patch)
        return run(project, tmp_path_factory.mktemp("results") / "out", "latency=60%")


def test_budget_is_met_as_closely_as_plans_allow_and_confirmed(finished: ShrinkResult) -> None:
    result = finished
    found = row(result, "latency")
    assert found["met"]
    assert found["share"] <= 0.6
    # in a network this small one unit can be more than 3 % of the budget
    reason = result.document["latency_search"]["ended_because"]
    assert found["share"] >= 0.97 * 0.6 or reason == "no plan lies between the measured ones"
    assert found["got"] == pytest.approx(weight_count(result.output / "model.onnx") / 1e3)
    search = result.document["latency_search"]
    assert search["is_confirmed"]
    assert search["num_measured"] <= 8
    assert search["candidates"][-1]["is_confirmation"]
    assert "Plans for latency=60%" in (result.output / "report.html").read_text()


def test_result_of_a_latency_budget_is_like_any_other(finished: ShrinkResult) -> None:
    result = finished
    assert result.document["proof"]["passed"]
    images = torch.randn(3, *result.document["model"]["input_shape"])
    session = onnxruntime.InferenceSession(result.output / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = fairdeploy.load(result.output)(images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_milliseconds_and_other_budgets_hold_together(
    project: Path, tmp_path: Path, device: SizedDevice, finished: ShrinkResult
) -> None:
    original_ms = row(finished, "latency")["original"]
    result = run(project, tmp_path / "out", f"latency={0.5 * original_ms:.4f}ms,macs=80%")
    assert row(result, "latency")["got"] <= 0.5 * original_ms
    assert row(result, "macs")["met"]


def test_unreachable_latency_shows_both_ends_before_any_image_is_read(
    project: Path, tmp_path: Path, device: SizedDevice
) -> None:
    with pytest.raises(BudgetError) as caught:
        run(project, tmp_path / "out", "latency=0.001ms", data="no-such-folder")
    assert "cannot reach latency=0.001ms on target 'cpu': the smallest allowed plan takes" in str(
        caught.value
    )
    assert "of the original's" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_device_lost_in_the_search_leaves_the_best_plan_and_says_so(
    project: Path, tmp_path: Path, device: SizedDevice
) -> None:
    device.lost_after = 2  # the smallest plan, and one more
    result = run(project, tmp_path / "out", "latency=60%")
    search = result.document["latency_search"]
    assert "device 'pi' stopped answering" in search["ended_because"]
    assert "best plan measured so far" in search["ended_because"]
    assert result.document["latency"] is None
    assert any("was not measured" in text for text in result.document["warnings"])
    assert row(result, "latency")["share"] <= 0.6
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_device_lost_at_once_writes_nothing(
    project: Path, tmp_path: Path, device: SizedDevice
) -> None:
    device.lost_after = 0
    with pytest.raises(DeviceLostError, match="device 'pi' stopped answering"):
        run(project, tmp_path / "out", "latency=60%")
    assert not (tmp_path / "out").exists()


def test_cut_file_that_fails_to_run_is_exported_instead(
    project: Path,
    tmp_path: Path,
    device: SizedDevice,
    finished: ShrinkResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    race = device.compare
    failed: list[Path] = []

    def fails_once(original: Path, shrunk: Path, *rest: Any, **options: Any) -> LatencyComparison:
        if shrunk.stem == "candidate" and not failed:
            failed.append(shrunk)
            raise MeasurementError("the runtime failed")
        return race(original, shrunk, *rest, **options)

    monkeypatch.setattr(device, "compare", fails_once)
    run(project, tmp_path / "exported", "latency=60%")
    assert failed
    plan = (tmp_path / "exported" / "plan.json").read_bytes()
    assert plan == (finished.output / "plan.json").read_bytes()


def test_same_seed_and_measurements_give_the_same_plan(
    project: Path, tmp_path: Path, device: SizedDevice, finished: ShrinkResult
) -> None:
    again = run(project, tmp_path / "again", "latency=60%")
    plan = (again.output / "plan.json").read_bytes()
    assert plan == (finished.output / "plan.json").read_bytes()


def test_coarse_multiple_gives_way_where_the_budget_needs_it(
    project: Path, tmp_path: Path, device: SizedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = Multiple(64, "measured", None, 64)
    monkeypatch.setattr(problem, "resolve_multiple", lambda *_, **__: coarse)
    monkeypatch.setattr(scored_groups, "MIN_STRICT_BLOCKS", 1)
    result = run(project, tmp_path / "out", "latency=60%", round_to=None)
    assert row(result, "latency")["met"]
    assert result.document["rounding"]["source"] == "budget"
    assert result.document["rounding"]["multiple"] == 8
    (warning,) = [text for text in result.document["warnings"] if "finer" in text]
    assert warning.startswith("with multiples of 64 channels: cannot reach latency=60%")
