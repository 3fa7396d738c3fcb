from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.errors import AccuracyError, BudgetError, ParityError
from fairdeploy.runs import inspect as inspection
from fairdeploy.runs import shrink as pipeline
from fairdeploy.runs.progress import Progress, SilentProgress
from fairdeploy.settings.options import InspectOptions, ShrinkOptions

DOCUMENT: Mapping[str, Any] = {
    "budget": [
        {"metric": "params", "asked": "params=40%", "allowed": 400.0, "original": 1000.0,
         "got": 399.0, "met": True},
        {"metric": "macs", "asked": "macs=2k", "allowed": 2000.0, "original": 5000.0,
         "got": 2000.0, "met": True},
        {"metric": "latency", "asked": "latency=60%", "allowed": 2.4, "original": 4.0, "got": 2.0,
         "met": True, "share": 0.5, "share_low": 0.48, "share_high": 0.53},
    ],
    "task": {"agreement": "same top-1"},
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
        "target": "cpu", "original_ms": 4.0, "shrunk_ms": 2.0, "speedup": 2.0,
        "speedup_low": 1.9, "speedup_high": 2.1, "is_noisy": True, "is_too_busy": False,
        "idle_gap": {"gap_ms": 33.0, "original": {"median_ms": 6.0}, "shrunk": {"median_ms": 4.0},
                     "speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6},
    },
    "artifacts": [{"path": "model.onnx", "size_bytes": 1_600_000}],
    "restrictions": [
        {"option": "--exclude 'layer4.*'", "num_groups": 5, "num_held": 5, "exceptions": [],
         "notes": [{"group": "layer3.conv", "text": "stays whole with 'up'"}]},
        {"option": "--max-prune 0.7", "num_groups": 9, "num_held": 2, "exceptions": [],
         "notes": []},
        {"option": "--round-to 16", "num_groups": 4, "num_held": 3, "notes": [],
         "exceptions": [{"group": name, "text": "stays whole at 12 channels"} for name in "abc"]},
    ],
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


def test_help_needs_no_torch() -> None:
    """The slow imports are what would make ``--help`` slow; a timed test would test the machine."""
    code = (
        "import sys; from fairdeploy.cli import app as cli; cli.run(['--help']);"
        "print(sorted({'torch', 'numpy', 'timm', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "shrink" in seen.stdout
    assert seen.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    commands = (
        "shrink", "sweep", "inspect", "measure", "bundle", "targets", "doctor", "demo",
    )  # fmt: skip
    for command in commands:
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
        "--no-latency", "--quiet", "--include", "layer*", "--include", "stem", "--exclude", "fc",
        "--max-prune", "0.7", "--max-prune", "layer4.*=30%", "--min-units", "8",
        "--min-units", "a=b=4", "--round-to", "16", "--signal", "l2", "--protect", "hrank",
        "--allocation", "global", "--weights", "model_ema",
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    assert recorder.options == ShrinkOptions(
        model="model.pt",
        weights="model_ema",
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
        include=("layer*", "stem"),
        exclude=("fc",),
        max_prune=(("*", 0.7), ("layer4.*", 0.3)),
        min_units=(("*", 8), ("a=b", 4)),
        round_to=16,
        signal="l2",
        protect="hrank",
        allocation="global",
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
    assert "macs=2k: got 2 k (40.00%), met" in shown
    assert "latency=60%: got 2 of 4 ms (50.0%, 95 % interval 48.0% to 53.0%), met" in shown
    assert "parameters 1 k 399 39.9%" in shown
    assert "equals the shrunk network: relative error 3.2e-07 (limit 1e-05)" in shown
    assert "model.onnx at batch 3: relative error 2.0e-06 (limit 1e-04), 100.0% same top-1" in shown
    assert "original 99.0% (97.0% to 99.5%), pruned 50.0%" in shown
    assert "on 450 test images" in shown
    assert "4 ms, now 2 ms on cpu: 2.00 times as fast (1.90 to 2.10); the machine was busy" in shown
    assert "calls 33 ms apart: 6 ms, now 4 ms: 1.50 times as fast (1.40 to 1.60)" in shown
    assert "report model-shrunk/report.html" in shown
    assert "control --exclude 'layer4.*': 5 groups stay whole" in shown
    assert "layer3.conv (stays whole with 'up')" in shown
    assert "control --max-prune 0.7: 2 of 9 groups at this limit" in shown
    assert "control --round-to 16: 3 of 4 groups shrink, in multiples" in shown
    assert (
        "not held by a (stays whole at 12 channels), b (stays whole at 12 channels) and 1 more"
        in shown
    )


def test_budget_that_was_not_met_is_shown_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *others, latency = DOCUMENT["budget"]
    missed = {**DOCUMENT, "budget": [*others, {**latency, "got": 2.6, "share": 0.65, "met": False}]}
    result = pipeline.ShrinkResult(Path("model-shrunk"), missed)
    monkeypatch.setattr(pipeline, "shrink", lambda options, progress: result)
    assert cli.run(["shrink", "model.pt", "-b", "latency=60%"]) == 3
    assert "got 2.6 of 4 ms (65.0%" in " ".join(capsys.readouterr().out.split())


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


def test_bug_is_one_line_that_says_so_and_names_a_file_with_the_rest(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = ZeroDivisionError("of something")
    assert cli.run(["shrink", "model.pt", "-b", "40%"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    found = re.search(r"a bug in fairdeploy.*ZeroDivisionError: of something.* in '(.*)'", line)
    assert found
    told = Path(found[1]).read_text()
    assert "Traceback" in told
    assert "in shrink" in told
    assert "torch" in told


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
        (["shrink", "m.pt", "--max-prune", "70"], "not a share from 0 to 1; did you mean 70%? use"),
        (["shrink", "m.pt", "--max-prune", "a=-1"], "--max-prune 'a=-1' is not a share"),
        (["shrink", "m.pt", "--max-prune", "layer4"], "use --max-prune 0.7"),
        (["shrink", "m.pt", "--max-prune", "nan"], "--max-prune 'nan' is not a share"),
        (["shrink", "m.pt", "--min-units", "0"], "--min-units '0' is not a whole number from 1"),
        (["inspect", "m.pt", "--min-units", "a=2.5"], "--min-units 'a=2.5' is not a whole number"),
        (["inspect", "m.pt", "--round-to", "0"], "invalid value for '--round-to'"),
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


INSPECTED: Mapping[str, Any] = {
    "cost": {
        "params": {"original": 1000.0, "smallest": 100.0, "removable_share": 0.9},
        "macs": {"original": 0.0, "smallest": 0.0, "removable_share": 0.0},
    },
    "units": 8,
    "modules": [
        {"module": "", "params": 1000, "removable_params": 900, "stays": [0, 1]},
        {"module": "conv1", "params": 900, "removable_params": 899, "stays": [0]},
        {"module": "head", "params": 100, "removable_params": 1, "stays": [1]},
    ],
    "groups": [
        {"name": f"blocks.{index}.fc", "units": 8, "smallest": 2, "channels_per_unit": 3,
         "removable_params": 900.0}
        for index in range(2)
    ],
    "blocks": [],
    "stays": [
        {"op": "layer_norm", "reason": "its statistics", "count": 24, "params": 40,
         "modules": ["norm"], "source_lines": [{"line": "/x/net.py:7", "count": 24}]},
        {"op": "", "reason": "--exclude head", "count": 1, "params": 5, "modules": ["head"],
         "source_lines": []},
    ],
    "unknown_ops": [
        {"op": "strange", "count": 2, "modules": ["m"],
         "source_lines": [{"line": "/x/net.py:12", "count": 2}]}
    ],
    "restrictions": [],
    "proof": None,
}  # fmt: skip
PROOF: Mapping[str, Any] = {
    "passed": True, "max_relative_error": 2e-7, "limit": 1e-5, "problem": "", "nodes": 77,
    "num_removed_units": 4, "params_left": 400.0, "seconds": {"prove": 1.25},
    "own_class": {"rebuilt": False, "problem": "its forward fails"},
}  # fmt: skip


def show_inspection(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], **changes: Any
) -> tuple[int, list[InspectOptions]]:
    """Run ``inspect`` on an invented document."""
    asked: list[InspectOptions] = []

    def fake(options: InspectOptions, progress: Progress) -> dict[str, Any]:
        asked.append(options)
        return {**INSPECTED, **changes}

    monkeypatch.setattr(inspection, "inspect", fake)
    return cli.run(["inspect", *arguments]), asked


def test_inspect_shows_what_can_go_what_cannot_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = show_inspection(monkeypatch, ["timm:resnet18"])
    assert code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "parameters 1 k, of which 90.0% can go (smallest allowed plan: 100)" in shown
    assert "the whole network 1 k 90% a b" in shown
    assert "conv1 900 >99% a" in shown
    assert "a 40 24 layer norms: its statistics at /x/net.py:7" in shown
    assert "b 5 --exclude head holds 1 group: head" in shown
    assert "strange 2 /x/net.py:12 (2x)" in shown
    assert "blocks.*.fc 2 8 2 3 900" in shown


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"number": 8, "source": "not measured", "is_cached": False},
         "counts multiples of 8, the default: it was not measured on this target (sweep and "
         "latency budgets measure it)"),
        ({"number": 16, "source": "measured", "is_cached": True},
         "counts multiples of 16, measured on the target by an earlier run (sweep and latency "
         "budgets keep to it, other budgets to 8)"),
        ({"number": 1, "source": "--round-to", "is_cached": False},
         "counts any count, as asked with --round-to"),
    ],
)  # fmt: skip
def test_inspect_says_what_counts_are_taken_to_be_multiples_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    text: str,
) -> None:
    code, _ = show_inspection(monkeypatch, ["m.pt"], channel_multiple=row)
    assert code == 0
    assert text in " ".join(capsys.readouterr().out.split())


def test_inspect_passes_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "m.pt", "--prove", "--arch", "timm:resnet18", "--target", "cpu", "--include", "a",
        "--exclude", "b", "--max-prune", "0.5", "--min-units", "c=2", "--round-to", "4",
        "--num-classes", "3", "--input-size", "64", "--seed", "5", "--trust-pickle",
        "--weights", "student",
    ]  # fmt: skip
    _, asked = show_inspection(monkeypatch, arguments)
    assert asked == [
        InspectOptions(
            model="m.pt", prove=True, arch="timm:resnet18", target="cpu", include=("a",),
            exclude=("b",), max_prune=(("*", 0.5),), min_units=(("c", 2),), round_to=4,
            num_classes=3, input_shape=64, seed=5, trust_pickle=True, weights="student",
        )
    ]  # fmt: skip


def test_inspect_tells_of_the_proof_and_of_the_own_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = show_inspection(monkeypatch, ["m.pt", "--prove"], proof=PROOF)
    assert code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "removed 4 of 8 units at random; 40.0% of the parameters stay" in shown
    assert "proof exact: relative error 2.0e-07 (limit 1e-05)" in shown
    assert "effort 77 operations; prove 1.2 s" in shown
    assert "own class does not come back: its forward fails" in shown


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_failed_proof_is_shown_and_ends_with_exit_code_four(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    failed = {**PROOF, "passed": False, "max_relative_error": None, "problem": "it fails [here]"}
    code, _ = show_inspection(monkeypatch, ["m.pt", "--prove", *arguments], proof=failed)
    assert code == 4
    printed = capsys.readouterr().out
    assert "it fails [here]" in printed
    if not arguments:
        assert "NOT EXACT: relative error none" in printed


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
        "from fairdeploy.cli import app as cli\n"
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


def test_cache_lists_what_is_kept_and_clears_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(tmp_path))
    for name in ("scores-ab.safetensors", "multiples-cd.json", "thesis.json", "training/x.pt",
                 "logs/failure-1.log", "logs/mine.log"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("123")
    assert cli.run(["cache", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = {row["kind"]: (row["num_files"], row["size_bytes"]) for row in listed["entries"]}
    assert found["scores"] == found["channel sweeps"] == found["interrupted training"] == (1, 3)
    assert cli.run(["cache", "clear"]) == 0
    assert "removed from" in capsys.readouterr().out
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"thesis.json", "mine.log"}
    assert cli.run(["cache", "tidy"]) == 2


def test_an_interrupt_says_what_was_kept(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = KeyboardInterrupt()
    recorder.error.add_note("the training is kept")
    assert cli.run(["shrink", "model.pt", "-b", "40%"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted; the training is kept"


@pytest.mark.parametrize("words", [["targets"], ["targets", "--json"], ["--help"], ["cache"]])
def test_output_that_nobody_takes_is_one_line(words: list[str]) -> None:
    code = f"import sys; from fairdeploy.cli import app as cli; sys.argv[1:] = {words}; cli.main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("no space left on device")
    assert "a bug" not in line


def test_name_that_is_too_long_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["inspect"], ["verify"], ["export"], ["measure"], ["shrink", "-b", "50%"]):
        assert cli.run([*words, "x" * 300]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "a bug" not in line
        assert len(line) < 1000
