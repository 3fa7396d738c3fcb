"""A device that measures for us, behind a real ssh server on this machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.cli import app as cli
from fairdeploy.deployment.devices.remote_device import RemoteDevice, operator_times_from
from fairdeploy.deployment.exporter_api import guarded_exporter
from fairdeploy.errors import DeviceLostError, ExportError, MeasurementError
from fairdeploy_onnx import OnnxExporter
from tests.deployment.fakes import WorkingExporter, profile
from tests.deployment.loopback_ssh import LoopbackServer
from tests.onnx_files import write_dense

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client here")

INPUTS = (np.ones((2, 16), dtype=np.float32),)
PROFILE = profile(max_seconds=0.2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    (tmp_path / "server").mkdir()
    running = LoopbackServer(tmp_path / "server")
    yield running
    running.close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_dense(tmp_path / "original.onnx", width=200),
        write_dense(tmp_path / "shrunk.onnx", width=4),
    )


def connect(server: LoopbackServer, **changes: Any) -> RemoteDevice:
    values = {"python": sys.executable, "ssh_options": server.ssh_options} | changes
    return RemoteDevice("127.0.0.1", port=server.port, **values)


def test_a_race_on_the_device_gives_the_record_of_a_race_here(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    with connect(server) as device:
        result = device.compare(*files, INPUTS, profile(max_seconds=0.2, idle_gap_ms=1), seed=0)
    assert (result.target, result.batch, result.threads) == ("test-target", 2, 1)
    assert result.providers == ("CPUExecutionProvider",)
    assert result.speedup_low <= result.speedup <= result.speedup_high
    ratio = np.median(np.divide(result.original.raw_ms, result.shrunk.raw_ms))
    assert result.speedup == pytest.approx(ratio, rel=1e-3)
    assert result.idle_gap is not None
    assert len(result.idle_gap.shrunk.raw_ms) == 20
    assert result.device is not None
    assert result.device.machine == os.uname().machine
    assert result.device.versions["onnxruntime"]


def test_the_original_is_sent_once_and_nothing_is_left_behind(
    server: LoopbackServer, files: tuple[Path, Path], tmp_path: Path
) -> None:
    original = write_dense(tmp_path / "large.onnx", width=20_000)  # 1.28 MB
    with connect(server) as device:
        device.compare(original, files[1], INPUTS, PROFILE, seed=0)
        first = server.num_bytes_received
        device.compare(original, files[0], INPUTS, PROFILE, seed=0)
        again = server.num_bytes_received - first
        (folder,) = server.remote_folders()
        kept = sorted(path.name for path in folder.rglob("*.onnx"))
    assert first > 1_280_000
    assert again < 100_000
    assert kept == ["large.onnx"]
    assert server.remote_folders() == []


def test_one_file_alone_and_a_decision_are_measured_there_too(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    with connect(server) as device:
        alone = device.measure(files[0], INPUTS, PROFILE, seed=0)
        # 100 times the original's time is never reached.
        decided = device.compare(*files, INPUTS, PROFILE, seed=0, decide_ratio=100.0)
    assert alone.median_low_ms <= alone.stats.median_ms <= alone.median_high_ms
    assert decided.stopped_because.startswith("interval wholly on one side of 10000.0%")


def test_a_host_that_nobody_listens_on_is_one_line(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    server.die()
    with pytest.raises(DeviceLostError, match=r"'127.0.0.1' does not answer: .*refused") as caught:
        connect(server).compare(*files, INPUTS, PROFILE, seed=0)
    assert str(caught.value).endswith("it must take 'ssh 127.0.0.1' without a password")
    assert "\n" not in str(caught.value)


def test_a_key_that_the_host_does_not_know_is_told(
    server: LoopbackServer, files: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("-F", "none", "-i", str(tmp_path / "no-such-key"), *server.ssh_options[4:])
    with pytest.raises(DeviceLostError, match="Permission denied"):
        connect(server, ssh_options=options).compare(*files, INPUTS, PROFILE, seed=0)


def test_python_that_is_missing_there_is_named(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    with pytest.raises(
        MeasurementError,
        match=r"no 'python9' on '127.0.0.1'; install Python there, .* with --remote-python",
    ):
        connect(server, python="python9").compare(*files, INPUTS, PROFILE, seed=0)
    assert server.remote_folders() == []


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("numpy", "No module named 'numpy'.* run .* -m pip install numpy onnxruntime there"),
        ("onnxruntime", "onnxruntime cannot be imported .*No module .* pip install onnxruntime"),
    ],
)
def test_a_library_that_is_missing_there_is_named_with_its_install_line(
    server: LoopbackServer, files: tuple[Path, Path], tmp_path: Path, library: str, message: str
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    text = f"raise ModuleNotFoundError(\"No module named '{library}'\")\n"
    (hidden / f"{library}.py").write_text(text)
    server.environment["PYTHONPATH"] = str(hidden)
    with connect(server) as device, pytest.raises(MeasurementError, match=message):
        device.compare(*files, INPUTS, PROFILE, seed=0)
    assert server.remote_folders() == []


def test_a_file_that_the_device_cannot_open_is_the_device_s_line(
    server: LoopbackServer, files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with (
        connect(server) as device,
        pytest.raises(MeasurementError, match=r"^'127.0.0.1': 'text.onnx' cannot be opened"),
    ):
        device.compare(files[0], tmp_path / "text.onnx", INPUTS, PROFILE, seed=0)


def test_a_device_that_dies_in_the_middle_of_a_race_is_lost(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    device = connect(server)
    device.compare(*files, INPUTS, PROFILE, seed=0)
    num_before = len(server.commands)

    def die_while_measuring() -> None:
        while not any("--json" in command for command in server.commands[num_before:]):
            time.sleep(0.01)
        time.sleep(0.3)
        server.die()

    killer = threading.Thread(target=die_while_measuring)
    killer.start()
    endless = profile(max_seconds=60.0, ratio_interval=1e-9)
    started = time.monotonic()
    with pytest.raises(DeviceLostError, match=r"'127.0.0.1' does not answer"):
        device.compare(*files, INPUTS, endless, seed=0)
    killer.join()
    assert time.monotonic() - started < 50
    device.close()  # and says nothing


def test_a_device_that_stays_silent_is_lost_when_its_time_is_over(
    server: LoopbackServer, files: tuple[Path, Path], tmp_path: Path
) -> None:
    silent = tmp_path / "silent_python"
    silent.write_text("#!/bin/sh\nexec sleep 30\n")
    silent.chmod(0o755)
    device = connect(server, answer_timeout_s=0.5, python=str(silent))
    with pytest.raises(DeviceLostError, match=r"'127.0.0.1' has not answered for 0.5 s; check"):
        device.compare(*files, INPUTS, PROFILE, seed=0)
    assert len(server.remote_folders()) == 1
    device.close()
    assert server.remote_folders() == []


def test_without_an_ssh_client_the_bundle_is_pointed_out(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementError, match=r"no 'ssh' on this machine; .* fairdeploy bundle"):
        RemoteDevice("board").compare(*files, INPUTS, PROFILE, seed=0)


def test_a_host_of_another_kind_than_the_profile_s_is_refused(
    server: LoopbackServer, files: tuple[Path, Path]
) -> None:
    with (
        connect(server) as device,
        pytest.raises(MeasurementError, match=r"'test-target' is an riscv64 device and the host"),
    ):
        device.compare(*files, INPUTS, profile(max_seconds=0.2, machine="riscv64"), seed=0)


def test_a_runtime_that_cannot_measure_elsewhere_says_so(
    files: tuple[Path, Path],
) -> None:
    with pytest.raises(ExportError, match="exporter 'tensorrt' cannot"):
        RemoteDevice("board").compare(*files, INPUTS, profile(runtime="tensorrt"), seed=0)


def test_the_command_measures_on_a_host_and_says_which(
    server: LoopbackServer, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "measure", *map(str, files), "--target", "cpu-1thread", "--seconds", "0.2", "--batches",
        "1,2", "--host", "127.0.0.1", "--port", str(server.port), "--remote-python",
        sys.executable, "--ssh-option", shlex.join(server.ssh_options), "--json",
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["host"] == "127.0.0.1"
    assert [row["batch"] for row in document["rows"]] == [1, 2]
    assert all(row["speedup"]["low"] <= row["speedup"]["value"] for row in document["rows"])
    assert server.remote_folders() == []
    server.die()
    assert cli.run(arguments) == 1
    assert capsys.readouterr().err.startswith("error: '127.0.0.1' does not answer: ")


def test_operators_are_timed_there_and_named_as_here(
    server: LoopbackServer, tmp_path: Path
) -> None:
    path = write_dense(tmp_path / "original.onnx", num_layers=3)
    with connect(server) as device:
        there = device.operator_times(path, INPUTS, PROFILE, num_runs=3)
        (folder,) = server.remote_folders()
        kept = sorted(file.name for file in folder.rglob("*") if file.is_file())
    here = OnnxExporter().operator_times(path, INPUTS, PROFILE, num_runs=3)
    assert [replace(time, median_ms=0.0) for time in there] == [
        replace(time, median_ms=0.0) for time in here
    ]
    assert len(there) == 3
    assert all(time.median_ms > 0 for time in there)
    assert kept == ["inputs.npz", "job.json", "measure.py", "original.onnx"]


def test_operator_times_that_make_no_sense_are_one_line(tmp_path: Path) -> None:
    path = write_dense(tmp_path / "original.onnx")
    with pytest.raises(MeasurementError, match=r"operator times cannot be read .* begin with 'oh'"):
        operator_times_from("oh", path, OnnxExporter())
    with pytest.raises(ExportError, match=r"operator times of 'original.onnx': KeyError"):
        operator_times_from('{"operators": [{}]}', path, guarded_exporter(OnnxExporter()))
    with pytest.raises(ExportError, match="exporter 'working' cannot time operators on another"):
        operator_times_from('{"operators": [{}]}', path, WorkingExporter())
