"""The runner uses the provider and the threads that were asked for, or says that it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fairdeploy.errors import ExportError
from fairdeploy.records import InputSignature
from fairdeploy_onnx import OnnxExporter, OnnxRunner
from tests.deployment.fakes import PROFILE, profile
from tests.exporters.captured_networks import EXAMPLE, captured

ONE = (np.zeros((1, 3, 8, 8), dtype=np.float32),)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    OnnxExporter().export(captured(), EXAMPLE, path, dynamic_batch=True, metadata={})
    return path


def test_it_reports_the_provider_and_the_threads_that_the_session_has(path: Path) -> None:
    runner = OnnxRunner(path, profile(threads=2))
    assert runner.providers == ("CPUExecutionProvider",)
    assert runner.threads == 2
    options = runner._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_it_tells_what_the_file_takes_and_what_runs_it(path: Path) -> None:
    runner = OnnxRunner(path, PROFILE)
    assert runner.input_signature == (InputSignature("input", "float32", ("batch", 3, 8, 8)),)
    assert runner.versions == {"onnxruntime": onnxruntime.__version__}


def test_zero_threads_are_all_the_cores_that_the_process_may_use(path: Path) -> None:
    expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert OnnxRunner(path, profile(threads=0)).threads == expected


def test_a_provider_that_is_not_installed_is_refused(path: Path) -> None:
    wanted = profile(providers=("NoSuchProvider", "CPUExecutionProvider"), name="phone")
    with pytest.raises(ExportError, match=r"cannot run 'model.onnx' on NoSuchProvider, which"):
        OnnxRunner(path, wanted)


def test_a_silent_fall_back_to_the_cpu_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA build lists CUDA on machines without a GPU and then runs on the CPU."""
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real_session = onnxruntime.InferenceSession

    def session_that_falls_back(path: Path, options: object, **arguments: object) -> object:
        return real_session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session_that_falls_back)
    with pytest.raises(ExportError) as caught:
        OnnxRunner(path, profile(providers=("CUDAExecutionProvider",), name="cuda"))
    assert str(caught.value).startswith(
        "ONNX Runtime cannot run 'model.onnx' on CUDAExecutionProvider, which target 'cuda' asks "
        "for; it has CPUExecutionProvider;"
    )


def test_a_provider_is_unusable_when_its_sessions_fall_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = profile(providers=("CUDAExecutionProvider",))
    assert OnnxExporter().unusable_because(cuda) == (
        "ONNX Runtime has no CUDAExecutionProvider here; install the onnxruntime build for that "
        "device"
    )
    real_session = onnxruntime.InferenceSession

    def session_that_falls_back(path: Path, options: object, **arguments: object) -> object:
        return real_session(path, options, providers=["CPUExecutionProvider"])

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session_that_falls_back)
    assert OnnxExporter().unusable_because(cuda) == (
        "ONNX Runtime lists CUDAExecutionProvider but cannot use it; its device, driver or "
        "libraries are missing"
    )
    assert OnnxExporter().unusable_because(PROFILE) is None


@pytest.mark.parametrize("content", [b"", b"not ONNX at all", b"\x08\x08" * 50])
def test_a_file_that_is_not_onnx_is_one_line_and_prints_nothing(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"'broken.onnx' cannot be opened as ONNX: ") as caught:
        OnnxRunner(path, PROFILE)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_refused(path: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ExportError, match="cannot be opened as ONNX"):
        OnnxRunner(half, PROFILE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no ONNX file '.*gone.onnx'"):
        OnnxRunner(tmp_path / "gone.onnx", PROFILE)


def test_a_wrong_number_of_inputs_is_refused_with_their_names(path: Path) -> None:
    with pytest.raises(ExportError, match=r"takes 1 inputs \(input\), got 2"):
        OnnxRunner(path, PROFILE).run(ONE * 2)


def test_a_wrong_shape_is_one_line(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = r"^input 'input' takes \[batch, 3, 8, 8\], got \[1, 4, 8, 8\]$"
    with pytest.raises(ExportError, match=message) as caught:
        OnnxRunner(path, PROFILE).run((np.zeros((1, 4, 8, 8), dtype=np.float32),))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_closing_twice_is_fine_and_running_after_it_is_refused(path: Path) -> None:
    runner = OnnxRunner(path, PROFILE)
    assert runner.run(ONE)[0].shape == (1, 5)
    runner.close()
    runner.close()
    with pytest.raises(ExportError, match="was closed"):
        runner.run(ONE)
