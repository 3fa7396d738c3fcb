"""The main job on a tiny network: what it writes, that it comes back, and that it repeats."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import fairdeploy
from fairdeploy.cli import app as cli
from fairdeploy.errors import (
    BudgetError,
    ExportError,
    MeasurementError,
    OutputError,
    PlanError,
    UsageError,
)
from fairdeploy.runs.progress import Progress
from fairdeploy.runs.shrink import ShrinkResult, shrink
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.target_profiles import load_profile, profile_toml
from tests.progress_recorder import RecordedProgress
from tests.random_networks import RandomNetwork
from tests.tiny_project import FACTORY, network, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a state dict, its architecture, labelled images and a project file."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path / "cache"))


def run(
    project: Path, output: Path, progress: Progress | None = None, **changes: Any
) -> ShrinkResult:
    options: dict[str, Any] = {
        "budgets": ("60%",),
        "with_latency": False,
        "command": ("fairdeploy", "shrink"),
    }
    return shrink(
        ShrinkOptions(model=str(project / "model.pt"), output=output, **(options | changes)),
        progress,
    )


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ShrinkResult:
    """One run that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(project, tmp_path_factory.mktemp("results") / "out")


def test_budget_is_met_and_nearly_used_up(finished: ShrinkResult) -> None:
    budget = finished.document["budget"][0]
    original = sum(parameter.numel() for parameter in network().parameters())
    assert budget["original"] == original
    assert budget["met"]
    assert 0.9 * budget["allowed"] < budget["got"] <= budget["allowed"]
    shrunk = fairdeploy.load(finished.output)
    assert sum(parameter.numel() for parameter in shrunk.parameters()) == budget["got"]


def test_report_has_every_promised_key(finished: ShrinkResult) -> None:
    document = json.loads((finished.output / "report.json").read_text())
    assert document == finished.document
    assert document["schema_version"] == 1
    promised = {
        "budget", "model", "tolerance", "groups", "proof", "artifacts", "parity", "accuracy",
        "latency", "environment", "seed", "command",
    }  # fmt: skip
    assert promised <= document.keys()
    assert document["budget"][0].keys() >= {"metric", "asked", "allowed", "original", "got", "met"}
    for side in ("original", "shrunk"):
        assert document["model"][side].keys() >= {"params", "macs", "size_bytes"}
    assert document["groups"][0].keys() >= {"name", "units", "kept", "tod", "frozen_reason"}
    assert document["proof"]["passed"]
    assert document["accuracy"]["num_images"] == 60
    for step in ("original", "pruned", "recovered", "exported"):
        estimate = document["accuracy"][step]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert [row["batch"] for row in document["parity"]] == [1, 3]


def test_artifacts_match_their_checksums(finished: ShrinkResult) -> None:
    rows = finished.document["artifacts"]
    assert {row["path"] for row in rows} == {
        "model.onnx", "model.pt2", "weights.safetensors", "plan.json",
    }  # fmt: skip
    for row in rows:
        content = (finished.output / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["size_bytes"] == len(content)


def test_network_comes_back_in_every_form_with_equal_outputs(finished: ShrinkResult) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = fairdeploy.load(finished.output)
    own = fairdeploy.load(finished.output, network())
    assert isinstance(own, RandomNetwork)
    session = onnxruntime.InferenceSession(finished.output / "model.onnx")
    (from_file,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(own(images), program(images))
        torch.testing.assert_close(torch.from_numpy(from_file), own(images), rtol=1e-4, atol=1e-4)


def test_apply_slices_the_given_weights_and_leaves_the_model_alone(
    finished: ShrinkResult,
) -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = fairdeploy.apply(model, finished.output / "plan.json")
    assert isinstance(small, RandomNetwork)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    kept = small.state_dict()["head.weight"]
    columns = model.state_dict()["head.weight"].T.tolist()
    assert all(column in columns for column in kept.T.tolist())


def test_plan_applies_to_a_network_in_a_wrapper(finished: ShrinkResult) -> None:
    plan = finished.output / "plan.json"
    plain = fairdeploy.apply(network(), plan)
    for wrapper in (AveragedModel(network()), torch.nn.DataParallel(network())):
        small = fairdeploy.apply(wrapper, plan)
        assert [p.shape for p in small.parameters()] == [p.shape for p in plain.parameters()]


def test_apply_carries_an_optimizer_over(finished: ShrinkResult) -> None:
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.9)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model(images).square().sum().backward()
    optimizer.step()
    small, carried = fairdeploy.apply(model, finished.output / "plan.json", optimizer=optimizer)
    assert isinstance(carried, torch.optim.SGD)
    assert carried.param_groups[0]["lr"] == 0.25
    held = {id(tensor) for tensor in carried.param_groups[0]["params"]}
    assert held == {id(tensor) for tensor in small.parameters()}
    head = small.get_parameter("head.weight")
    columns = list(model.get_parameter("head.weight").T)
    momentum = optimizer.state[model.get_parameter("head.weight")]["momentum_buffer"].T
    for column, state in zip(head.T, carried.state[head]["momentum_buffer"].T, strict=True):
        places = [i for i, original in enumerate(columns) if torch.equal(original, column)]
        assert any(torch.equal(momentum[place], state) for place in places)


def test_loaded_network_can_be_trained_in_both_forms(finished: ShrinkResult) -> None:
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 5
    for form in (fairdeploy.load(finished.output), fairdeploy.load(finished.output, network())):
        before = {name: buffer.clone() for name, buffer in form.named_buffers()}
        optimizer = torch.optim.SGD(form.parameters(), lr=0.05)
        first = torch.nn.functional.cross_entropy(form(images), labels)
        form.train()
        for _ in range(20):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(form(images), labels).backward()
            optimizer.step()
        form.eval()
        assert torch.nn.functional.cross_entropy(form(images), labels) < first
        moved = {n for n, buffer in form.named_buffers() if not torch.equal(buffer, before[n])}
        assert {name.rpartition(".")[2] for name in moved} == {
            "running_mean", "running_var", "num_batches_tracked",
        }  # fmt: skip


def test_apply_refuses_another_model(finished: ShrinkResult) -> None:
    other = RandomNetwork(("plain",), (4,), flatten=False)
    with pytest.raises(PlanError, match="the plan is for another model"):
        fairdeploy.apply(other, finished.output / "plan.json")


def test_same_inputs_and_seed_give_the_same_plan_byte_for_byte(
    project: Path, finished: ShrinkResult, tmp_path: Path
) -> None:
    again = run(project, tmp_path / "again")
    plan = (again.output / "plan.json").read_bytes()
    assert plan == (finished.output / "plan.json").read_bytes()


def test_another_budget_takes_the_scores_from_the_cache_and_says_so(
    project: Path, tmp_path: Path
) -> None:
    first, second = RecordedProgress(), RecordedProgress()
    run(project, tmp_path / "first", first, budgets=("70%",))
    run(project, tmp_path / "second", second, budgets=("macs=60%",))
    scored = [next(s for s in seen.stages if s.name == "score units") for seen in (first, second)]
    assert [(stage.done, stage.text) for stage in scored] == [(60, ""), (0, "from the cache")]


def test_several_budgets_hold_together(project: Path, tmp_path: Path) -> None:
    result = run(project, tmp_path / "out", budgets=("params=80%", "macs=50%,size=90%"))
    assert [row["metric"] for row in result.document["budget"]] == ["params", "macs", "size"]
    assert all(row["met"] for row in result.document["budget"])


def test_unreachable_budget_is_refused_with_the_range_and_nothing_is_written(
    project: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"cannot reach .*0\.1%.*") as caught:
        run(project, tmp_path / "out", budgets=("0.1%",))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_restrictions_are_honoured_and_reported(
    project: Path, tmp_path: Path, finished: ShrinkResult
) -> None:
    free = {row["name"]: row for row in finished.document["groups"]}
    excluded = next(name for name, row in free.items() if row["kept"] < row["units"])
    result = run(
        project, tmp_path / "out", budgets=("75%",),
        exclude=(excluded,), max_prune=(("*", 0.5),), round_to=2,
    )  # fmt: skip
    rows = [row for row in result.document["groups"] if row["frozen_reason"] is None]
    assert sum(row["kept"] < row["units"] for row in rows) > 1
    for row in rows:
        assert row["kept"] >= row["units"] / 2
        assert row["name"] != excluded or row["kept"] == row["units"]
    original = dict(network().named_parameters())
    for name, parameter in fairdeploy.load(result.output).named_parameters():
        assert parameter.shape[0] == original[name].shape[0] or parameter.shape[0] % 2 == 0
    options = [row["option"] for row in result.document["restrictions"]]
    assert options == [f"--exclude {excluded}", "--max-prune 0.5", "--round-to 2"]
    assert "--max-prune 0.5" in (result.output / "report.html").read_text()


def test_budget_out_of_reach_names_the_option_that_limits_most(
    project: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"--max-prune 0\.1 limits most \(without it: [\d.]+%\)"):
        run(project, tmp_path / "out", budgets=("40%",), max_prune=(("*", 0.1),))
    assert not (tmp_path / "out").exists()


def test_latency_budget_without_measuring_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'latency=5ms' cannot be met without measuring"):
        run(project, tmp_path / "out", budgets=("latency=5ms",), with_latency=False)


def test_a_target_of_another_machine_is_refused_before_any_work(
    project: Path, tmp_path: Path
) -> None:
    board = tmp_path / "board.toml"
    cpu = profile_toml(load_profile("cpu"))
    board.write_text(f'{cpu}machine = "riscv64"\n')
    with pytest.raises(MeasurementError, match=r"'board' is an riscv64 device .* --no-latency"):
        run(project, tmp_path / "out", target=str(board), with_latency=True)


def test_existing_output_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        run(tmp_path / "no-such-project", tmp_path / "out")


def test_no_data_gives_a_result_without_accuracy_and_a_warning(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes((project / "model.pt").read_bytes())
    (tmp_path / "arch.py").write_text(FACTORY)
    result = run(
        tmp_path, tmp_path / "out", arch=f"{tmp_path}/arch.py:build", input_shape=8,
        num_calibration=16,
    )  # fmt: skip
    assert result.document["accuracy"]["original"] is None
    assert any("NO DATA" in text for text in result.document["warnings"])
    assert result.document["recovery"] is None


def test_network_that_nothing_can_go_from_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)), tmp_path / "m.pt")
    with pytest.raises(BudgetError, match=r"cannot reach"):
        shrink(ShrinkOptions(model=str(tmp_path / "m.pt"), budgets=("50%",), input_shape=(3, 8, 8)))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("what", "error", "code", "left"),
    [
        ("fairdeploy_onnx.exporter.OnnxExporter.export", ExportError("no operator"), 1,
         {"model.pt2", "plan.json", "weights.safetensors"}),
        ("fairdeploy.runs.shrink.Report", TypeError("float(None)"), 1,
         {"model.onnx", "model.pt2", "plan.json", "weights.safetensors"}),
        ("fairdeploy.runs.stages.evaluation.Evaluation.changes", KeyboardInterrupt(), 130,
         {"model.onnx", "model.pt2", "plan.json", "weights.safetensors"}),
        ("fairdeploy.runs.folder.artifact_folder.model_card",
         OSError(28, "No space left on device"), 1,
         {"model.onnx", "model.pt2", "plan.json", "weights.safetensors", "report.html",
          "report.json", "run.py"}),
    ],
)  # fmt: skip
def test_finished_parts_are_kept_and_said_whatever_fails_after_the_repair(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    error: BaseException,
    code: int,
    left: set[str],
) -> None:
    monkeypatch.setattr(what, failing(error))
    output = tmp_path / "out"
    words = ["shrink", str(project / "model.pt"), "-b", "60%", "--no-latency", "--quiet"]
    assert cli.run([*words, "-o", str(output)]) == code
    kept = tmp_path / "out-unfinished"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"what was finished is kept in '{kept}': {', '.join(sorted(left))}, without" in line
    assert {path.name for path in kept.iterdir()} == left
    fairdeploy.load(kept)(torch.zeros(2, 3, 8, 8))
    assert not output.exists()


def test_a_file_that_differs_from_torch_is_written_told_of_and_exits_with_4(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strict = replace(load_profile("cpu"), parity_limit=1e-12)
    monkeypatch.setattr("fairdeploy.runs.run.load_profile", lambda _: strict)
    output = tmp_path / "out"
    words = ["shrink", str(project / "model.pt"), "-b", "60%", "--no-latency", "--quiet"]
    assert cli.run([*words, "-o", str(output)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "differs" in line
    assert f"the result and its report are in '{output}'" in line
    document = json.loads((output / "report.json").read_text())
    assert not all(row["passed"] for row in document["parity"])
    assert document["chain"]["passed"] is False
    assert "parity of model.onnx" in (output / "report.html").read_text()


def test_a_race_that_fails_costs_the_measurement_not_the_result(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = failing(MeasurementError("the clock stands still"))
    monkeypatch.setattr("fairdeploy.deployment.devices.local_device.LocalDevice.compare", fail)
    result = run(project, tmp_path / "out", with_latency=True)
    assert result.document["latency"] is None
    assert any("the clock stands still" in text for text in result.document["warnings"])
    assert (result.output / "manifest.json").exists()
