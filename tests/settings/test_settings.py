"""The command line wins over the project file, and the project file over the defaults."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.deployment.exporter_api import load_exporters
from fairdeploy.errors import UsageError
from fairdeploy.records import Restrictions
from fairdeploy.runs.export.requests import requests_of
from fairdeploy.settings.options import (
    DEFAULT_CALIBRATION_IMAGES,
    ExportOptions,
    ShrinkOptions,
    SweepOptions,
)
from fairdeploy.settings.run import (
    DEFAULT_POINTS,
    default_output,
    resolve_shrink,
    resolve_sweep,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    path.write_bytes(b"")
    (tmp_path / "fairdeploy.toml").write_text(
        'budget = ["50%", "macs=60%"]\nseed = 7\nnum_calibration = 99\nrecover = "batchnorm"\n'
    )
    return path


def test_project_file_supplies_what_is_not_typed(model: Path) -> None:
    settings = resolve_shrink(ShrinkOptions(model=str(model)))
    assert settings.budgets == ("50%", "macs=60%")
    assert settings.model.seed == 7
    assert settings.num_calibration == 99
    assert settings.recover == "batchnorm"


def test_command_line_wins_over_the_project_file(model: Path) -> None:
    options = ShrinkOptions(
        model=str(model), budgets=("40%",), seed=0, num_calibration=64, recover="none"
    )
    settings = resolve_shrink(options)
    assert settings.budgets == ("40%",)
    assert settings.model.seed == 0
    assert settings.num_calibration == 64
    assert settings.recover == "none"


def test_defaults_hold_without_a_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = resolve_shrink(ShrinkOptions(model="timm:resnet18", budgets=("40%",)))
    assert settings.num_calibration == DEFAULT_CALIBRATION_IMAGES
    assert settings.target == "cpu"
    assert settings.output == Path("resnet18-shrunk")


def test_the_image_size_of_the_target_holds_unless_another_is_given(model: Path) -> None:
    board = model.parent / "board.toml"
    board.write_text(
        'description = "a board"\nruntime = "onnx"\nproviders = ["CPUExecutionProvider"]\n'
        'precision = "fp32"\nbatch = 1\nthreads = 1\nchannel_multiple = 4\nwarmup_seconds = 1\n'
        "min_pairs = 20\nmax_seconds = 9\nratio_interval = 0.1\nparity_limit = 1e-4\n"
        "input_size = [3, 96, 64]\n"
    )
    options = ShrinkOptions(model=str(model), target=str(board))
    assert resolve_shrink(options).model.input_shape == (3, 96, 64)
    assert resolve_shrink(replace(options, input_shape=32)).model.input_shape == 32
    assert resolve_shrink(ShrinkOptions(model=str(model))).model.input_shape is None


def test_each_restriction_on_the_command_line_replaces_the_project_file_s(model: Path) -> None:
    with (model.parent / "fairdeploy.toml").open("a") as file:
        file.write('exclude = ["stem"]\nround_to = 16\n[max_prune]\n"*" = 0.5\n"a" = 0.1\n')
    from_file = Restrictions(exclude=("stem",), max_prune=(("*", 0.5), ("a", 0.1)), round_to=16)
    assert resolve_shrink(ShrinkOptions(model=str(model))).restrictions == from_file
    typed = ShrinkOptions(model=str(model), max_prune=(("*", 0.7),), min_units=(("*", 4),))
    assert resolve_shrink(typed).restrictions == Restrictions(
        exclude=("stem",), max_prune=(("*", 0.7),), min_units=(("*", 4),), round_to=16
    )


def test_empty_glob_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="--exclude '' is empty; give a glob on module paths"):
        resolve_shrink(ShrinkOptions(model=str(model), exclude=("",)))


def test_missing_budget_is_a_usage_error_that_shows_one(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="add --budget 40%"):
        resolve_shrink(ShrinkOptions(model=str(tmp_path / "m.pt")))


def test_output_lies_beside_a_model_file(model: Path) -> None:
    assert default_output(str(model)) == model.parent / "net-shrunk"


def test_output_name_of_a_named_model_is_safe() -> None:
    assert default_output("timm:vit/../x,img_size=64") == Path("vit-..-x-shrunk")


def test_sweep_shares_the_project_file_but_for_shrink_s_budget_and_output(model: Path) -> None:
    (model.parent / "fairdeploy.toml").write_text(
        'budget = "50%"\noutput = "out"\nseed = 7\nnum_calibration = 99\nround_to = 4\n'
    )
    settings = resolve_sweep(SweepOptions(model=str(model)))
    assert (settings.model.seed, settings.num_calibration) == (7, 99)
    assert settings.restrictions.round_to == 4
    assert settings.output == model.parent / "net-sweep"
    assert (settings.metric, settings.num_points, settings.percents) == (
        "params", DEFAULT_POINTS, None,
    )  # fmt: skip


def test_sweep_measures_at_each_share_once_from_the_largest_down(model: Path) -> None:
    settings = resolve_sweep(SweepOptions(model=str(model), at=(30.0, 70.0, 30.0), metric="macs"))
    assert settings.percents == (70.0, 30.0)
    assert settings.metric == "macs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 1}, "--points 1 is not a number from 2 to 100; for a single one use"),
        ({"points": 1000}, "--points 1000 is not a number from 2 to 100"),
        ({"metric": "flops"}, "no metric 'flops'; use one of params, macs, size"),
        ({"metric": "latency"}, "no metric 'latency'; use one of params, macs, size"),
        ({"points": 4, "at": (50.0,)}, "--points and --at both say where to measure; give one"),
    ],
)
def test_sweep_refuses_what_cannot_be(model: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve_sweep(SweepOptions(model=str(model), **changes))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--budget latency=5ms --no-latency", "'latency=5ms' cannot be met without measuring"),
        ("--budget 40% --host me@board --no-latency", "--host me@board says where to measure"),
        ("--budget 40% --port 22", "--port is about the machine of --host"),
        ("--budget 40% --steps 2 --allow-norm-coupled", "--steps does not go with --allow-norm"),
        ("--budget 40% --steps 2 --blocks", "--steps does not go with --blocks"),
        ("--budget latency=50% --steps 2", "--steps goes with a --budget of parameters"),
        ("--budget 40% --smallest macs", "--smallest macs says what --max-drop makes smallest"),
        ("--budget 40% --max-drop 1%", "--max-drop needs labelled test images"),
        ("--budget 40% --recover distil", "--recover distil learns from images"),
        ("--budget 40% --finetune 3", "--finetune learns from images"),
        ("--budget 40% --distill", "--distill says how to train; add --finetune"),
    ],
)
def test_contradictions_are_refused_before_the_model_is_read(
    words: str,
    told: str,
    working_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (working_folder / "net.pt").write_text("not a model")
    assert cli.run(["shrink", "net.pt", *words.split()]) in (1, 2)
    error = capsys.readouterr().err
    assert told in error
    assert "net.pt" not in error
    assert [path.name for path in working_folder.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ({"max_drop": 0.02}, "--max-drop is about int8"),
        ({"num_calibration": 8}, "--num-calibration is about int8"),
        ({"formats": ("openvino",), "opset": 17}, "--opset 17 is about ONNX"),
    ],
)
def test_export_s_contradictions_are_refused(typed: dict[str, Any], told: str) -> None:
    options = replace(ExportOptions(folder=Path("x"), precisions=("fp16",)), **typed)
    with pytest.raises(UsageError, match=told):
        requests_of(options, load_exporters())


def test_results_of_sharded_weights_lie_beside_their_files(tmp_path: Path) -> None:
    index = tmp_path / "net.safetensors.index.json"
    index.write_text("{}")
    assert default_output(str(index)) == tmp_path / "net-shrunk"
    assert default_output(str(tmp_path)) == tmp_path / "model-shrunk"
