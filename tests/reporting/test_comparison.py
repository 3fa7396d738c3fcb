"""Results side by side: who is best, where intervals tell, and where nothing may be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.reporting.comparison import build_comparison, comparison_table, verdict_lines
from fairdeploy.reporting.page.comparison import render_comparison


def report(
    accuracy: float, *, spread: float = 0.01, speedup: float | None = None, params: int = 50
) -> dict[str, Any]:
    """What ``compare`` reads of a report; the speed's interval is 0.05 wide on each side."""
    figure = {"value": accuracy, "low": accuracy - spread, "high": accuracy + spread}
    latency = speedup and {
        "speedup": speedup, "speedup_low": speedup - 0.05, "speedup_high": speedup + 0.05,
        "is_too_busy": False,
    }  # fmt: skip
    costs = {"params": params, "macs": 2_000, "size_bytes": 400}
    return {
        "model": {
            "name": "net", "sha256": "a", "shrunk": costs,
            "original": {"params": 100, "macs": 4_000, "size_bytes": 800},
        },
        "budget": [{"asked": "params=50%"}],
        "method": {"signal": "l1", "protect": "none", "allocation": "tod"},
        "recovery": {"method": "least_squares"},
        "distillation": None,
        "tuning": {"epochs": 2},
        "accuracy": {"original": figure, "recovered": figure, "exported": figure, "num_images": 90},
        "changes": {"by_step": {"exported": {"value": -0.02, "low": -0.03, "high": -0.01}}},
        "fidelity": None,
        "task": {"name": "classification", "quality": "top-1"},
        "data": {"sha256": "d"},
        "target": {"name": "cpu"},
        "latency": latency or None,
    }  # fmt: skip


def test_the_best_is_named_and_whom_it_cannot_be_told_apart_from() -> None:
    document = build_comparison(
        {"a": report(0.90), "b": report(0.905, params=40), "c": report(0.80, spread=0.001)}
    )
    assert document["best"]["quality"] == {"folder": "b", "alike": ["a"]}
    assert document["best"]["params"] == {"folder": "b", "alike": []}
    assert document["best"]["speedup"] is None
    assert verdict_lines(document) == [
        "smallest: b", "best quality: b (can't be told apart from a)",
    ]  # fmt: skip


def test_only_races_that_make_a_claim_are_compared() -> None:
    busy = report(0.9, speedup=3.0)
    busy["latency"]["is_too_busy"] = True
    runs = {"a": report(0.9, speedup=1.5), "b": report(0.9, speedup=1.2), "busy": busy}
    document = build_comparison(runs)
    assert document["best"]["speedup"] == {"folder": "a", "alike": []}
    (speed,) = (row for row in comparison_table(document)[1] if row[0] == "speed")
    assert speed[1:] == [
        "1.50\u00d7 as fast (1.45 to 1.55)", "1.20\u00d7 as fast (1.15 to 1.25)",
        "no claim: machine too busy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "note", "unjudged"),
    [
        (("model", "sha256"), "b", "the originals differ", {"params", "speedup"}),
        (("data", "sha256"), "e", "the images differ", {"quality"}),
        (("accuracy", "num_images"), 91, "the images differ", {"quality"}),
        (("task", "quality"), "mIoU", "qualities are of different kinds", {"quality"}),
        (("target", "name"), "jetson", "the targets differ", {"speedup"}),
    ],
)
def test_what_differs_for_another_reason_is_said_and_not_judged(
    path: tuple[str, str], value: object, note: str, unjudged: set[str]
) -> None:
    other = report(0.8, speedup=1.2)
    other[path[0]][path[1]] = value
    document = build_comparison({"a": report(0.9, speedup=1.5, params=30), "b": other})
    assert [line for line in verdict_lines(document) if line.startswith(note)]
    assert {name for name, found in document["best"].items() if found is None} == unjudged


def test_texts_of_a_run_are_escaped_on_the_page() -> None:
    named = report(0.9)
    named["model"]["name"] = "<script>"
    page = render_comparison(build_comparison({"a": named, "b": report(0.8)}), "c.json")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "2 results side by side" in page


def test_the_command_reads_folders_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(accuracy)))
        folders.append(str(tmp_path / name))
    assert cli.run(["compare", *folders, "-o", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/comparison.json").read_text())
    assert printed["best"]["quality"]["folder"] == folders[0]
    assert "90.0" in (tmp_path / "out/comparison.html").read_text()
    assert cli.run(["compare", *folders, "-o", str(tmp_path / "out")]) == 1
    assert "exists" in capsys.readouterr().err
    assert cli.run(["compare", folders[0], folders[0]]) == 2
    assert cli.run(["compare", folders[0], str(tmp_path / "out")]) == 1
    assert "holds no report.json" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["{", "[]", "{}", '{"model": 3}', "null", "missing"])
def test_a_damaged_report_is_one_line(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = report(0.9)
    bad = copy.deepcopy(good)
    bad["accuracy"]["exported"] = "x"
    for name, text in (("a", json.dumps(good)), ("b", broken)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(bad) if text == "missing" else text)
    assert cli.run(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "report.json' is damaged" in line
