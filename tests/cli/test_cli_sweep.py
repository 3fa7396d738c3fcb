"""``fairdeploy sweep`` on the command line: options, table, commands to type next, and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.runs import sweep
from fairdeploy.runs.progress import Progress, SilentProgress
from fairdeploy.settings.options import SweepOptions
from tests.reporting.sample_sweep import sweep_document

DOCUMENT: Mapping[str, Any] = sweep_document()


class Recorder:
    """Stands in for the sweep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: SweepOptions | None = None
        self.progress: Progress | None = None
        self.document = DOCUMENT
        monkeypatch.setattr(sweep, "sweep", self.sweep)

    def sweep(self, options: SweepOptions, progress: Progress | None = None) -> sweep.SweepResult:
        self.options, self.progress = options, progress
        return sweep.SweepResult(Path("model-sweep"), self.document)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_sweep_passes_its_options_on(recorder: Recorder) -> None:
    arguments = ["sweep", "m.pt", "--metric", "macs", "--at", "90%, 30.5%", "-o", "out", "--force",
                 "--no-latency", "--exclude", "stem", "--quiet"]  # fmt: skip
    assert cli.run(arguments) == 0
    assert recorder.options == SweepOptions(
        model="m.pt", metric="macs", at=(90.0, 30.5), output=Path("out"), force=True,
        with_latency=False, exclude=("stem",), command=("fairdeploy", *sys.argv[1:]),
    )  # fmt: skip
    assert cli.run(["sweep", "m.pt", "--points", "5", "-q"]) == 0
    assert recorder.options == SweepOptions(
        model="m.pt", points=5, command=("fairdeploy", *sys.argv[1:])
    )


def test_table_shows_every_network_and_ends_with_what_to_type(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["sweep", "m.pt"]) == 0
    printed = capsys.readouterr().out
    shown = " ".join(printed.split())
    for row in (
        "original 1 k 100.0% 50 k 100.0% 90.0% (88.0% to 92.0%) params=75%",
        "params=75% 750 75.0% 40 k 80.0% 90.5% (88.5% to 92.5%) 1.25x (1.20 to 1.30) frontier",
        "params=50% 500 50.0% 25 k 50.0% 89.0% (87.0% to 91.0%) 2.00x (1.90 to 2.10) knee",
        "params=20% 200 20.0% 9 k 18.0% 40.0% (37.0% to 43.0%) 4.00x (3.80 to 4.20) frontier",
    ):
        assert row in shown
    assert "knee params=50%: farthest above the line" in shown
    assert "3 removals exact: relative error at most 3.0e-07" in shown
    assert "accuracy after repair by least squares, on 800 test images" in shown
    assert "in races of at most 5 s, shorter than shrink's; 1 of 3 intervals are wide" in shown
    assert "counts multiples of 16, measured on the target by an earlier run" in shown
    assert "note 10% of the params is out of reach" in shown
    assert "model-sweep: sweep.json, 3 plans in plans/" in shown
    assert "report model-sweep/sweep.html" in shown
    lines = printed.splitlines()
    place = lines.index("make the knee's network with")
    assert lines[place + 1] == f"  {DOCUMENT['knee']['command']}"
    assert len(lines[place + 1]) > 120
    place = lines.index("look closer at it with")
    assert lines[place + 1] == "  fairdeploy sweep m.pt --at 69%,62%"


def test_table_without_accuracy_and_latency_shows_the_r_scores_that_went(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.document = sweep_document(has_accuracy=False, has_latency=False, knee=None)
    assert cli.run(["sweep", "m.pt"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "R removed" in shown
    assert "params=50% 500 50.0% 25 k 50.0% 20.0%" in shown
    assert "speed" not in shown
    assert "test images" not in shown
    assert "knee none: the line is straight" in shown
    assert "make the knee's network" not in shown


def test_json_prints_the_document_and_nothing_else(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["sweep", "m.pt", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == DOCUMENT
    assert printed.err == ""
    assert isinstance(recorder.progress, SilentProgress)


def test_quiet_prints_nothing(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", "m.pt", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "1"], "--points 1 is not a number from 2 to 100; for a single one use"),
        (["--points", "x"], "invalid value for '--points'"),
        (["--at", "120%"], "--at '120%' is not a percentage above 0% and below 100%; the"),
        (["--at", "100%"], "the original is measured anyway; use --at 90%,70%,50%,30%"),
        (["--at", "0%"], "--at '0%' is not a percentage above 0% and below 100%; use --at 90%"),
        (["--at", "50%,x"], "--at 'x' is not a percentage"),
        (["--at", ""], "--at '' is not a percentage"),
        (["--at", "50"], "did you mean 50%? use --at 90%,70%,50%,30%"),
        (["--at", "0.5"], "did you mean 50%?"),
        (["--at", "nan%"], "--at 'nan%' is not a percentage"),
        (["--metric", "flops"], "no metric 'flops'; use one of params, macs, size"),
        (["--metric", "latency"], "no metric 'latency'; use one of params, macs, size"),
        (["--points", "3", "--at", "50%"], "--points and --at both say where to measure; give one"),
        (["--budget", "40%"], "no such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(
    working_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert cli.run(["sweep", "missing.pt", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert list(working_folder.iterdir()) == []


def test_existing_folder_is_one_line(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (working_folder / "out").mkdir()
    assert cli.run(["sweep", "missing.pt", "-o", "out"]) == 1
    assert capsys.readouterr().err == (
        "error: output folder 'out' exists; choose another with --output, or add --force\n"
    )
