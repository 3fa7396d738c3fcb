"""The script for GPU machines, as far as a CPU can go; and its one line where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest

from tests.benchmarks import gpu_tables
from tests.runs.test_timed_run import TARGET
from tests.tiny_project import write_project


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it would run here"
)
def test_without_the_provider_it_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_tables.main(["--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == (
        "error: target 'cuda' cannot be used here: ONNX Runtime has no CUDAExecutionProvider here; "
        "install the onnxruntime build for that device\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_on_a_cpu_it_makes_every_table_with_torch_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tables, "CHANNELS", 4)
    monkeypatch.setattr(gpu_tables, "SIZE", 4)
    write_project(tmp_path)
    (tmp_path / "quick.toml").write_text(TARGET)
    network = f"tiny={tmp_path / 'model.pt'}@{tmp_path / 'arch.py'}:build@8"
    (tmp_path / "results").mkdir()
    assert gpu_tables.main([
        "--target", str(tmp_path / "quick.toml"), "--network", network, "--budgets", "90%", "1%",
        "--macs", "0.7", "--aa-runs", "1", "--output", str(tmp_path / "results"),
    ]) == 0  # fmt: skip
    document = json.loads((tmp_path / "results" / "gpu_tables.json").read_text())
    tables = document["targets"]["quick"]
    close, unreachable = tables["budgets"]
    # whether a network this small can be 10 % faster is for the machine to say
    assert ("torch" in close) != ("error" in close)
    assert "cannot reach latency=1% on target 'quick'" in unreachable["error"]
    assert [row["kind"] for row in tables["aa"]] == ["same", "3 % more"]
    (gain,) = tables["gain"]
    assert gain["macs"] <= 0.7
    assert gain["torch"]["low"] <= gain["torch"]["speedup"] <= gain["torch"]["high"]
    page = (tmp_path / "results" / "gpu_tables.md").read_text()
    assert f"torch {document['environment']['packages']['torch']}" in page
    assert document["environment"]["cpu"] in page
    assert "## quick" in page
    assert "| `tiny` | 1% | cannot reach" in page
    assert "0 of 2 at or under" in page or "1 of 2 at or under" in page
    assert "against 3 % more work" in page
