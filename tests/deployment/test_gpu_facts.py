"""GPUs are what the driver says; where it says nothing, the reason is told."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from fairdeploy.deployment.devices.gpu_facts import Gpu, GpuSurvey, survey_gpus


def absent(arguments: Sequence[str]) -> str:
    raise FileNotFoundError("nvidia-smi")


def test_each_line_of_nvidia_smi_is_a_gpu() -> None:
    asked = []

    def ask(arguments: Sequence[str]) -> str:
        asked.append(arguments)
        return "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0\nNVIDIA T4, 470.1, [N/A], [N/A]\n"

    assert survey_gpus(ask) == GpuSurvey(
        (
            Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 81559, "9.0"),
            Gpu("NVIDIA T4", "470.1", None, ""),
        ),
        None,
    )
    assert asked == [
        ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap",
         "--format=csv,noheader,nounits"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            subprocess.CalledProcessError(
                9, "nvidia-smi", "NVIDIA-SMI has failed because it couldn't communicate\nmore", ""
            ),
            "NVIDIA-SMI has failed because it couldn't communicate",
        ),
        (subprocess.TimeoutExpired("nvidia-smi", 20), "timed out after 20 seconds"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_a_tool_that_fails_is_quoted(raised: Exception, said: str) -> None:
    def ask(arguments: Sequence[str]) -> str:
        raise raised

    found = survey_gpus(ask)
    assert found.gpus == ()
    assert found.problem is not None
    assert found.problem.startswith("nvidia-smi does not work: ")
    assert said in found.problem
    assert "\n" not in found.problem


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        ("", "nvidia-smi lists no GPU"),
        ("No devices were found", "nvidia-smi does not work: it printed 'No devices were found'"),
    ],
)
def test_an_answer_without_gpus_is_a_problem(printed: str, problem: str) -> None:
    assert survey_gpus(lambda _: printed) == GpuSurvey((), problem)


def test_a_machine_without_the_tool_tells_what_else_is_there(tmp_path: Path) -> None:
    assert survey_gpus(absent, tmp_path).problem == "no NVIDIA GPU and no driver seen"
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x020000\n")  # a network card of the same maker
    assert survey_gpus(absent, tmp_path).problem == "no NVIDIA GPU and no driver seen"
    (card / "class").write_text("0x030200\n")
    assert survey_gpus(absent, tmp_path).problem == (
        "there is an NVIDIA GPU but no driver; install NVIDIA's driver for this system"
    )
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 580\n")
    assert survey_gpus(absent, tmp_path).problem == (
        "there is an NVIDIA driver but no nvidia-smi; install the driver's utilities"
    )
