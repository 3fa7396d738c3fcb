from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from fairdeploy.reporting.environment import cpu_model, describe_environment


def test_environment_names_machine_and_versions() -> None:
    found = describe_environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["cores"] >= 1
    assert found["cpu"]


def test_cpu_model_is_the_name_and_not_the_model_number(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel\t: 17\nmodel name\t: Fast CPU 3000 @ 2 GHz\n")
    assert cpu_model(cpuinfo) == "Fast CPU 3000 @ 2 GHz"


def test_cpu_model_is_the_board_where_there_is_no_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nHardware : BCM2835\nModel : Small Board 4\n")
    assert cpu_model(cpuinfo) == "Small Board 4"


def test_cpu_model_falls_back_to_the_architecture(tmp_path: Path) -> None:
    expected = platform.processor() or platform.machine()
    assert cpu_model(tmp_path / "missing") == expected
