"""An exporter of one's own takes one class: a whole run with the least that can be written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fairdeploy.cli import app
from tests.contracts.test_exporter_contract import THIRD_PARTY
from tests.tiny_project import write_project

TARGET = """
description = "torch"
runtime = "least"
providers = ["torch"]
precision = "fp32"
batch = 1
threads = 1
channel_multiple = 4
warmup_seconds = 0.01
min_pairs = 20
max_seconds = 0.5
ratio_interval = 0.5
parity_limit = 1e-4
"""


def test_network_is_shrunk_checked_and_timed_with_an_exporter_of_ones_own(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    write_project(working_folder)
    (working_folder / "own.toml").write_text(TARGET)
    asked = "shrink model.pt --budget 60% --target own.toml --output out --json"
    code = app.run(asked.split())
    printed = capsys.readouterr()
    assert code == 0, printed.err
    document = json.loads(printed.out)
    assert (working_folder / "out" / "model.pt2").is_file()
    assert document["artifacts"][0]["path"] == "model.pt2"
    assert document["parity"]
    assert all(row["passed"] for row in document["parity"])
    assert document["latency"]["speedup"] > 0
    assert document["latency"]["providers"] == ["torch"]
    sys.modules.pop("least_exporter", None)
