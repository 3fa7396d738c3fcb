"""Problems are what is there and does not work; the doctor finds them on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairdeploy.cli.summaries.doctor import doctor_summary
from fairdeploy.runs.doctor.examination import examine
from fairdeploy.runs.doctor.findings import Answer, gather
from fairdeploy.runs.doctor.packages import conflicts, installed_versions
from tests.runs.doctor.machines import H100, NO_GPU, ONNXRUNTIME, machine


def test_what_is_only_not_installed_is_no_problem() -> None:
    found = machine({"onnxruntime": "1.32.0"}, {"onnxruntime": ONNXRUNTIME},
                    exporters={"onnx": None, "openvino": "needs openvino"})  # fmt: skip
    document = examine(found)
    assert document["problems"] == []
    assert document["exporters"] == {"onnx": "usable", "openvino": "needs openvino"}
    assert document["runtimes"]["onnxruntime"]["providers"] == ["CPUExecutionProvider"]
    assert document["targets"] == {"cpu": None, "cuda": "no CUDA"}


def test_two_builds_of_onnx_runtime_are_a_problem_with_its_cure() -> None:
    (text,) = conflicts({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"})
    assert text == (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run pip "
        "uninstall -y onnxruntime onnxruntime-gpu, then pip install 'fairdeploy[cpu]' or, for an "
        "NVIDIA GPU, 'fairdeploy[gpu]'"
    )
    assert list(conflicts({"onnxruntime": "1.32.0", "onnxruntime-gpu": None})) == []


def test_torch_tensorrt_beside_onnxruntime_gpu_is_explained() -> None:
    (text,) = conflicts({"torch-tensorrt": "2.13.0", "onnxruntime-gpu": "1.31.0"})
    assert "torch-tensorrt needs TensorRT 11" in text
    assert "onnxruntime-gpu needs TensorRT 10" in text
    assert "pip uninstall -y torch-tensorrt" in text


def test_a_broken_library_is_a_problem_with_the_line_that_installs_it_again() -> None:
    found = machine({"onnxruntime-gpu": "1.31.0"}, {"onnxruntime": Answer(problem="no libcuda")})
    assert examine(found)["problems"] == [
        "onnxruntime-gpu is installed but does not work: no libcuda; "
        "run pip install --force-reinstall onnxruntime-gpu"
    ]


def test_exporters_that_must_work_and_those_of_others_are_problems() -> None:
    found = machine({}, exporters={"onnx": "needs onnx", "theirs": "cannot be loaded: OSError"})
    assert examine(found)["problems"] == ["onnx: needs onnx", "theirs: cannot be loaded: OSError"]
    assert examine(machine({}, exporters={}))["problems"] == [
        "no exporter is registered; install fairdeploy again with pip"
    ]
    silent = machine({}, standing=Answer(problem="crashes (SIGSEGV)"))
    assert examine(silent)["problems"] == ["the exporters cannot be asked: crashes (SIGSEGV)"]


def test_only_installed_libraries_are_tried_each_on_its_own() -> None:
    asked = []

    def ask(code: str) -> Answer:
        asked.append(code)
        return Answer(problem="crashes (SIGILL)")

    found = gather(
        ask, lambda: {"torch": "2.13.0", "openvino": None}, lambda: NO_GPU, lambda _: None
    )
    assert set(found.runtimes) == {"torch"}
    assert len(asked) == 2
    assert not any("openvino" in code for code in asked)
    assert not found.has_ssh
    assert examine(found)["problems"]


def test_the_document_is_plain_json_and_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    document = examine(machine({"onnxruntime": "1.32.0"}, gpus=H100))
    assert json.loads(json.dumps(document)) == document
    Console(width=120).print(doctor_summary(document))
    shown = capsys.readouterr().out
    assert "NVIDIA H100, 81559 MiB, driver 580.65, compute capability 9.0" in shown
    assert "pip install 'fairdeploy[openvino]'" in shown
    assert "problems  none" in shown


def test_installed_versions_see_two_builds_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "onnxruntime_gpu-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = installed_versions()
    assert versions["onnxruntime-gpu"] == "9.9"
    assert versions["onnxruntime"]
    assert any("overwrite each other" in text for text in conflicts(versions))


@pytest.mark.parametrize(
    ("broken", "source", "said"),
    [
        ("torch", "raise ImportError('libtorch.so: cannot open shared object file')",
         "torch is installed but does not work: ImportError: libtorch.so: cannot open"),
        ("onnxruntime", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)",
         "onnxruntime is installed but does not work: crashes (SIGILL)"),
        ("numpy", "raise ImportError('numpy is broken')", "the exporters cannot be asked: "),
    ],
)  # fmt: skip
def test_the_command_survives_a_broken_library(
    broken: str, source: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / broken).mkdir()
    (tmp_path / broken / "__init__.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "fairdeploy", "doctor", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert any(text.startswith(said) for text in json.loads(done.stdout)["problems"])
    assert "Traceback" not in done.stderr


def test_a_library_that_only_takes_long_is_not_called_broken() -> None:
    late = Answer(problem="does not answer within 300 s", is_late=True)
    document = examine(machine({"torchvision": "0.28.0"}, {"torchvision": late}))
    assert document["problems"] == [
        "torchvision does not answer within 300 s; try again when the machine is less busy"
    ]
    (row,) = [row for row in document["abilities"] if row["name"].startswith("timm")]
    assert row["detail"] == document["problems"][0]
    assert row["install"] is None
