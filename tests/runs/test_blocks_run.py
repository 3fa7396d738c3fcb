"""``--blocks`` through the whole job: budgets, report, inspection, sweep, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

import fairdeploy
from fairdeploy.cli import app as cli
from fairdeploy.cli.summaries.inspect import inspection_summary
from fairdeploy.cli.summaries.shrink import shrink_summary
from fairdeploy.errors import BudgetError, UsageError
from fairdeploy.runs import shrink as pipeline
from fairdeploy.runs.inspect.document import inspect
from fairdeploy.runs.search import trials as latency_trials
from fairdeploy.runs.shrink import ShrinkResult
from fairdeploy.settings.options import InspectOptions, ShrinkOptions
from tests.progress_recorder import RecordedProgress
from tests.residual_networks import ResidualNetwork, images, network
from tests.sized_device import SizedDevice, measure_on_sized_device

FACTORY = """
from tests.residual_networks import ResidualNetwork

def build():
    return ResidualNetwork(projects=False)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    torch.save(network("option A").state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    random = np.random.default_rng(0)
    labels = np.arange(120) % 5
    pictures = random.integers(0, 200, (120, 8, 8, 3)) + (labels * 10)[:, None, None, None]
    np.savez(folder / "images.npz", images=pictures.astype(np.uint8), labels=labels)
    (folder / "fairdeploy.toml").write_text(
        'arch = "arch.py:build"\ninput_size = 8\ndata = "images.npz"\nnum_calibration = 60\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SizedDevice:
    return measure_on_sized_device(monkeypatch)


def run(project: Path, output: Path, budget: str, **changes: Any) -> ShrinkResult:
    options: dict[str, Any] = {"round_to": 1, "blocks": True, "with_latency": False}
    return pipeline.shrink(
        ShrinkOptions(
            model=str(project / "model.pt"), output=output, budgets=(budget,), **options | changes
        ),
        RecordedProgress(),
    )


def gone(result: ShrinkResult) -> list[str]:
    return [row["module"] for row in result.document["blocks"] if row["is_gone"]]


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ShrinkResult:
    """One run to 30 % of the MACs that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(project, tmp_path_factory.mktemp("results") / "out", "macs=30%")


def test_budget_below_what_widths_can_reach_is_met_without_blocks(
    project: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="let 4 residual blocks go as a whole with --blocks"):
        run(project, tmp_path / "out", "size=50%", blocks=False, min_units=(("*", 6),))
    result = run(project, tmp_path / "out", "size=50%", min_units=(("*", 6),))
    assert gone(result)
    assert result.document["budget"][0]["met"]
    assert result.document["proof"]["passed"]
    assert all(row["passed"] for row in result.document["parity"])
    assert {row["batch"] for row in result.document["parity"]} == {1, 3}


def test_what_is_written_comes_back_three_ways(project: Path, finished: ShrinkResult) -> None:
    assert gone(finished)
    original = ResidualNetwork(projects=False)
    original.load_state_dict(torch.load(project / "model.pt"))
    graph_module = fairdeploy.load(finished.output)
    own = fairdeploy.load(finished.output, original)
    assert isinstance(own, ResidualNetwork)
    session = onnxruntime.InferenceSession(finished.output / "model.onnx")
    batch = images(3)
    (exported,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    with torch.no_grad():
        expected = graph_module(batch)
        torch.testing.assert_close(own(batch), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(exported), expected, rtol=1e-4, atol=1e-4)


def test_plan_and_report_name_the_blocks(finished: ShrinkResult) -> None:
    plan = json.loads((finished.output / "plan.json").read_text())
    assert (plan["schema_version"], plan["blocks"]) == (2, True)
    groups = {row["name"]: row["removed"] for row in plan["groups"]}
    assert [name for name in gone(finished) if groups[f"{name} (block)"] != [0]] == []
    page = (finished.output / "report.html").read_text()
    assert f"{len(gone(finished))} of 6 residual blocks are gone as a whole" in page
    rows = {row["name"]: row for row in finished.document["groups"]}
    assert not any("(block)" in name for name in rows)
    for name in gone(finished):
        assert rows[f"{name}.conv1"]["kept"] == 0
    shown = rendered(shrink_summary(finished.document, finished.output))
    assert f"{len(gone(finished))} of 6 residual blocks gone: {gone(finished)[0]}" in shown


def test_sizes_in_the_report_are_those_of_the_network(finished: ShrinkResult) -> None:
    network_ = fairdeploy.load(finished.output)
    parameters = sum(parameter.numel() for parameter in network_.parameters())
    assert finished.document["model"]["shrunk"]["params"] == parameters


def test_repair_of_a_shallower_network_helps(project: Path, tmp_path: Path) -> None:
    result = run(project, tmp_path / "out", "macs=50%")
    fits = {row["layer"]: row for row in result.document["recovery"]["layers"]}
    assert not any(name.startswith(f"{block}.") for block in gone(result) for name in fits)
    assert any(row["outcome"] == "fitted" for row in fits.values())


def test_without_the_option_plans_are_as_before(project: Path, tmp_path: Path) -> None:
    result = run(project, tmp_path / "out", "macs=60%", blocks=None)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["schema_version"] == 1
    assert result.document["blocks"] == []
    assert "Residual blocks" not in (tmp_path / "out" / "report.html").read_text()


def test_project_file_can_ask_for_blocks_and_the_command_line_refuse_them(
    project: Path, tmp_path: Path
) -> None:
    text = (project / "fairdeploy.toml").read_text()
    try:
        (project / "fairdeploy.toml").write_text(text + "blocks = true\n")
        asked = inspect(InspectOptions(model=str(project / "model.pt")))
        refused = inspect(InspectOptions(model=str(project / "model.pt"), blocks=False))
    finally:
        (project / "fairdeploy.toml").write_text(text)
    assert len(asked["blocks"]) == 6
    assert refused["blocks"] == []


def test_inspection_tells_which_blocks_may_go_and_proves_some(project: Path) -> None:
    options = InspectOptions(model=str(project / "model.pt"), blocks=True, prove=True, seed=1)
    document = inspect(options)
    may_go = [row["module"] for row in document["blocks"] if row["may_go"]]
    assert may_go == ["layer1.1", "layer1.2", "layer2.1", "layer2.2"]
    assert document["proof"]["passed"]
    assert document["proof"]["own_class"]["rebuilt"]
    shown = rendered(inspection_summary(document))
    assert "4 of 6 residual blocks may go: layer1.1, layer1.2, layer2.1, layer2.2" in shown
    modules = {row["module"]: row for row in document["modules"]}
    assert modules["layer1.1"]["removable_params"] == modules["layer1.1"]["params"]
    assert modules["layer1.0"]["removable_params"] < modules["layer1.0"]["params"]


def test_latency_budget_is_met_with_fewer_blocks_from_one_export(
    project: Path, tmp_path: Path, device: SizedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    export = latency_trials.LatencyTrials._export

    def noted(self: Any, module: Any, name: str) -> Path:
        exported.append(name)
        return export(self, module, name)

    monkeypatch.setattr(latency_trials.LatencyTrials, "_export", noted)
    result = run(
        project, tmp_path / "out", "latency=50%", with_latency=True, recover="none",
        min_units=(("*", 6),),
    )  # fmt: skip
    found = result.document["budget"][0]
    assert gone(result)
    assert found["met"]
    assert found["share"] <= 0.5
    assert result.document["latency_search"]["is_confirmed"]
    assert "candidate" not in exported


def test_steps_are_refused_with_blocks(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--steps does not go with --blocks; drop one of them"):
        run(project, tmp_path / "out", "macs=50%", steps=2)


def test_command_line_takes_the_option(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["inspect", str(project / "model.pt"), "--blocks", "--json"])
    assert code == 0
    assert len(json.loads(capsys.readouterr().out)["blocks"]) == 6


def rendered(shown: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown)
    return " ".join(console.export_text().split())
