from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fairdeploy import cli, inspection, pipeline
from fairdeploy.errors import AccuracyError, BudgetError, ParityError
from fairdeploy.options import ModelOptions, ShrinkOptions
from fairdeploy.progress import Progress, SilentProgress

DOCUMENT: Mapping[str, Any] = {
    "budget": [
        {"metric": "params", "asked": "params=40%", "allowed": 400.0, "original": 1000.0,
         "got": 399.0, "met": True},
        {"metric": "macs", "asked": "macs=1k", "allowed": 1000.0, "original": 5000.0,
         "got": 2000.0, "met": False},
    ],
    "model": {
        "original": {"params": 1000, "macs": 5000, "size_bytes": 4_000_000},
        "shrunk": {"params": 399, "macs": 2000, "size_bytes": 1_600_000},
    },
    "proof": {"max_relative_error": 3.2e-7, "limit": 1e-5, "passed": True},
    "parity": [
        {"artifact": "model.onnx", "batch": 3, "max_relative_error": 2e-6, "limit": 1e-4,
         "top1_agreement": 1.0, "passed": True}
    ],
    "accuracy": {
        "original": {"value": 0.99, "low": 0.97, "high": 0.995},
        "pruned": {"value": 0.5, "low": 0.45, "high": 0.55},
        "recovered": {"value": 0.98, "low": 0.96, "high": 0.99},
        "exported": None,
        "num_images": 450,
    },
    "latency": {
        "target": "cpu", "original_median_ms": 4.0, "shrunk_median_ms": 2.0, "speedup": 2.0,
        "speedup_low": 1.9, "speedup_high": 2.1, "is_noisy": True,
    },
    "artifacts": [{"path": "model.onnx", "size_bytes": 1_600_000}],
}  # fmt: skip


class Recorder:
    """Stands in for the pipeline."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: ShrinkOptions | None = None
        self.progress: Progress | None = None
        self.error: BaseException | None = None
        monkeypatch.setattr(pipeline, "shrink", self.shrink)

    def shrink(
        self, options: ShrinkOptions, progress: Progress | None = None
    ) -> pipeline.ShrinkResult:
        self.options, self.progress = options, progress
        if self.error is not None:
            raise self.error
        return pipeline.ShrinkResult(Path("model-shrunk"), DOCUMENT)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_help_answers_quickly_and_without_torch() -> None:
    code = (
        "import sys, fairdeploy.cli; print(sorted({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
    assert min(_cpu_seconds_of_help() for _ in range(3)) < 0.5


def _cpu_seconds_of_help() -> float:
    """Processor time, which is the time that passes on a quiet machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "fairdeploy", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("shrink", "inspect", "targets", "doctor", "demo"):
        assert command in shown
    assert "3 budget not met" in " ".join(shown.split())


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    from fairdeploy import __version__

    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"fairdeploy {__version__}\n"


def test_shrink_passes_every_option_on(recorder: Recorder) -> None:
    arguments = [
        "shrink", "model.pt", "-b", "40%", "--budget", "macs=50%", "--data", "images",
        "--output", "out", "--arch", "timm:resnet18", "--target", "cpu", "--recover", "batchnorm",
        "--num-calibration", "64", "--num-classes", "10", "--input-size", "3,32,48",
        "--mean", "0.1,0.2,0.3", "--std", "1,1,1", "--seed", "7", "--trust-pickle", "--force",
        "--no-latency", "--quiet",
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    assert recorder.options == ShrinkOptions(
        model="model.pt",
        budgets=("40%", "macs=50%"),
        data="images",
        output=Path("out"),
        arch="timm:resnet18",
        target="cpu",
        recover="batchnorm",
        num_calibration=64,
        num_classes=10,
        input_shape=(3, 32, 48),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
        seed=7,
        trust_pickle=True,
        force=True,
        with_latency=False,
        command=("fairdeploy", *sys.argv[1:]),
    )


def test_options_that_are_absent_are_left_to_the_project_file(recorder: Recorder) -> None:
    assert cli.run(["shrink", "model.pt"]) == 0
    assert recorder.options == ShrinkOptions(
        model="model.pt", command=("fairdeploy", *sys.argv[1:])
    )


def test_summary_shows_budgets_sizes_checks_and_where_the_report_is(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["shrink", "model.pt", "-b", "40%"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "params=40%: got 399 (39.90%), met" in shown
    assert "macs=1k: got 2 k (40.00%), not met" in shown
    assert "parameters 1 k 399 39.9%" in shown
    assert "equals the shrunk network: relative error 3.2e-07 (limit 1e-05)" in shown
    assert "model.onnx at batch 3: relative error 2.0e-06 (limit 1e-04), 100.0% same top-1" in shown
    assert "original 99.0% (97.0% to 99.5%), pruned 50.0%" in shown
    assert "on 450 test images" in shown
    assert "4 ms, now 2 ms on cpu: 2.00 times as fast (1.90 to 2.10); the machine was busy" in shown
    assert "report model-shrunk/report.html" in shown


def test_json_prints_the_report_and_nothing_else(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["shrink", "model.pt", "-b", "40%", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == DOCUMENT
    assert printed.err == ""
    assert isinstance(recorder.progress, SilentProgress)


def test_quiet_prints_nothing(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["shrink", "model.pt", "-b", "40%", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize(
    ("error", "code"), [(BudgetError("no"), 3), (ParityError("no"), 4), (AccuracyError("no"), 5)]
)
def test_user_error_is_one_line_with_its_exit_code(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    recorder.error = error
    assert cli.run(["shrink", "model.pt", "-b", "40%"]) == code
    printed = capsys.readouterr()
    assert printed.err == "error: no\n"
    assert printed.out == ""


def test_error_with_line_breaks_and_brackets_stays_one_unchanged_line(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = BudgetError("shape [3, 32]\n  is [red]wrong[/red] " + "x" * 200)
    cli.run(["shrink", "model.pt", "-b", "40%"])
    assert capsys.readouterr().err == f"error: shape [3, 32] is [red]wrong[/red] {'x' * 200}\n"


def test_bug_is_not_hidden_behind_an_error_line(recorder: Recorder) -> None:
    recorder.error = ZeroDivisionError("bug")
    with pytest.raises(ZeroDivisionError):
        cli.run(["shrink", "model.pt", "-b", "40%"])


def test_interrupt_says_that_nothing_was_written(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = KeyboardInterrupt()
    assert cli.run(["shrink", "model.pt", "-b", "40%"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted; nothing was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shrink"], "missing argument"),
        (["shrink", "m.pt", "--bugdet", "40%"], "no such option"),
        (["shrnk", "m.pt"], "no such command 'shrnk'"),
        (["shrink", "m.pt", "--seed", "x"], "invalid value for '--seed'"),
        (["shrink", "m.pt", "--num-calibration", "1"], "invalid value for '--num-calibration'"),
        (["shrink", "m.pt", "--recover", "magic"], "no recovery 'magic'; use one of least_squares"),
        (["shrink", "m.pt", "--input-size", "big"], "--input-size 'big' is not a size; use"),
        (["shrink", "m.pt", "--input-size", "3,0,3"], "--input-size '3,0,3' is not a size"),
        (["shrink", "m.pt", "--input-size", "32,32"], "--input-size '32,32' is not a size"),
        (["shrink", "m.pt", "--mean", "0.5,x"], "--mean '0.5,x' is not a list of numbers"),
        (["shrink", "m.pt", "--std", "nan"], "--std 'nan' is not a list of numbers"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(
    recorder: Recorder, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.run(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert recorder.options is None


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("0%", "budget '0%' is not above zero"),
        ("150%", "leaves the network as it is"),
        ("-5ms", "budget '-5ms' is not above zero"),
        ("40 bananas", "has unit 'bananas'"),
        ("latency=5ms", "latency budgets are not available"),
    ],
)
def test_impossible_budget_is_refused_before_the_model_is_looked_at(
    working_folder: Path, capsys: pytest.CaptureFixture[str], budget: str, message: str
) -> None:
    assert cli.run(["shrink", "missing.pt", "--budget", budget]) == 2
    assert message in capsys.readouterr().err
    assert list(working_folder.iterdir()) == []


def test_missing_model_is_one_line_and_nothing_is_written(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["shrink", "missing.pt", "--budget", "40%"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "missing.pt" in printed
    assert list(working_folder.iterdir()) == []


def test_inspect_prints_the_document_of_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "cost": {"params": {"original": 1000.0, "smallest": 100.0, "removable_share": 0.9}},
        "groups": [{"name": "conv1", "units": 8, "removable_params": 900.0}],
        "frozen": [{"name": "head", "units": 10, "reason": "reaches the output"}],
        "unknown_ops": {"strange": 2},
    }
    asked: list[ModelOptions] = []

    def fake(options: ModelOptions, progress: Progress) -> dict[str, Any]:
        asked.append(options)
        return document

    monkeypatch.setattr(inspection, "inspect", fake)
    assert cli.run(["inspect", "timm:resnet18", "--input-size", "64"]) == 0
    assert asked == [ModelOptions(model="timm:resnet18", input_shape=64)]
    shown = " ".join(capsys.readouterr().out.split())
    assert "parameters 1 k, of which 90.0% can go" in shown
    assert "conv1 8 900" in shown
    assert "head 10 reaches the output" in shown
    assert "operations without a rule, left alone: strange (2)" in shown


def test_targets_lists_the_shipped_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["targets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["targets"]
    assert "cpu" in [row["name"] for row in rows]


def test_doctor_names_the_versions(capsys: pytest.CaptureFixture[str]) -> None:

    cli.run(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["packages"]["torch"] == metadata.version("torch")
    assert "onnx" in document["exporters"]


def test_terminate_signal_ends_a_command_in_order(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "from fairdeploy import cli\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.app.command('wait')(wait)\n"
        "sys.argv[1:] = ['wait']\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed.strip() == "error: interrupted; nothing was written"
