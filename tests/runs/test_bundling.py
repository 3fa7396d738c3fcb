"""A bundle runs on a device that has numpy and onnxruntime, and nothing of fairdeploy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.cli import app as cli
from fairdeploy.deployment.devices.device_job import parse_result
from fairdeploy.errors import MeasurementError, OutputError, UsageError
from fairdeploy.runs.measure.bundle import bundle
from fairdeploy.settings.options import BundleOptions
from fairdeploy.settings.target_profiles import load_profile
from tests.onnx_files import write_dense


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_dense(tmp_path / "a.onnx", width=64), write_dense(tmp_path / "b.onnx")


def make(output: Path, *sources: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {"target": "cpu-1thread", "seconds": 0.2, "seed": 3} | changes
    bundle(BundleOptions(output=output, sources=sources, **values))
    return output


def run_there(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a device would, which cannot import fairdeploy."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    (folder / "fairdeploy.py").write_text("raise ImportError('not on this device')")
    command = [sys.executable, "measure.py", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_script_prints_a_table_and_writes_raw_times_and_device_facts(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "out", *files, batch=4, idle_gap_ms=1.0)
    done = run_there(folder)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "second/b.onnx is " in done.stdout
    assert "first/a.onnx every 1 ms" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    times = result["measured"]["back_to_back"]["times_ms"]
    assert len(times[0]) == len(times[1]) >= 20
    assert result["device"]["machine"] == os.uname().machine
    measured, terms = parse_result(json.dumps(result), load_profile("cpu-1thread"))
    ratio = np.median(np.divide(*times))
    assert measured.back_to_back.interval.value == pytest.approx(ratio, rel=1e-3)
    assert (terms.batch, terms.threads) == (4, 1)


def test_the_folder_holds_the_profile_that_was_measured_with(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "out", files[0], idle_gap_ms=33.0)
    profile = load_profile(str(folder / "profile.toml"))
    assert (profile.name, profile.idle_gap_ms, profile.max_seconds) == ("profile", 33.0, 0.2)
    assert profile.providers == ("CPUExecutionProvider",)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.txt", "first", "inputs.npz", "job.json", "measure.py", "profile.toml",
    ]  # fmt: skip
    assert "'a.onnx' on this device" in (folder / "README.txt").read_text()


def test_weights_beside_a_file_travel_with_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.onnx.data").write_bytes(b"weights")
    folder = make(tmp_path / "out", files[0])
    assert (folder / "first/a.onnx.data").read_bytes() == b"weights"


def test_a_folder_with_one_or_two_files_is_taken_whole(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "out", files[0].parent)
    assert json.loads((folder / "job.json").read_text())["files"] == [
        "first/a.onnx", "second/b.onnx",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"'.*empty' holds 0 .onnx files; name the one or two"):
        make(tmp_path / "other", tmp_path / "empty")


def test_a_link_in_a_named_folder_is_not_followed(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(files[0])
    with pytest.raises(UsageError, match=r"model.onnx' is a link .* name the file itself"):
        make(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()
    assert (make(tmp_path / "out", folder / "model.onnx") / "first/model.onnx").is_file()


def test_an_earlier_bundle_is_replaced_only_if_asked_for(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "out", *files)
    arguments = ["bundle", str(folder), str(files[0])]
    assert cli.run(arguments) == 1
    assert "exists; choose another folder, or add --force" in capsys.readouterr().err
    assert cli.run([*arguments, "--force"]) == 0
    assert "python3 measure.py" in " ".join(capsys.readouterr().out.split())
    assert not (folder / "second").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="which fairdeploy bundle did not write"):
        make(tmp_path / "mine", *files, force=True)


def test_what_the_device_cannot_do_is_one_line_there(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "out", files[0])
    job = json.loads((folder / "job.json").read_text())
    changed = {**job, "providers": ["CUDAExecutionProvider"]}
    (folder / "job.json").write_text(json.dumps(changed))
    done = run_there(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ONNX Runtime cannot run on CUDAExecutionProvider; it has")
    (folder / "job.json").write_text(json.dumps({**job, "affinity": [9999]}))
    assert run_there(folder).stderr.startswith("error: affinity names core 9999")
    assert run_there(folder, "--what").stderr.startswith("usage: python measure.py")


def test_an_answer_that_is_none_of_ours_is_shown() -> None:
    with pytest.raises(MeasurementError, match=r"answer cannot be read .* begins with 'Welcome!'"):
        parse_result("Welcome!", load_profile("cpu"))
