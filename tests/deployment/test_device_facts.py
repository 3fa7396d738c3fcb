"""What the machine tells of itself, read from folders that look like /proc and /sys."""

from __future__ import annotations

import ast
import os
import platform
from pathlib import Path

import pytest

from fairdeploy.deployment.devices import device_facts as module
from fairdeploy.deployment.devices.device_facts import (
    AffinityError,
    cpu_model,
    device_facts,
    held_on_cores,
)

CPUFREQ = Path("sys/devices/system/cpu/cpu0/cpufreq")

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot hold a process on cores"
)


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_file_runs_alone_on_an_old_python() -> None:
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
    named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in named if name is None or name.startswith("fairdeploy")]


def test_governor_clocks_and_surroundings_are_read(tmp_path: Path) -> None:
    facts = device_facts(
        written(
            tmp_path,
            {
                f"{CPUFREQ}/scaling_governor": "ondemand\n",
                f"{CPUFREQ}/scaling_cur_freq": "600000\n",
                f"{CPUFREQ}/cpuinfo_max_freq": "1800000\n",
                "proc/cpuinfo": "processor : 0\nflags : fpu hypervisor sse\nmodel name : Fast\n",
                ".dockerenv": "",
            },
        )
    )
    assert facts["governor"] == "ondemand"
    assert (facts["clock_mhz"], facts["max_clock_mhz"]) == (600.0, 1800.0)
    assert facts["surroundings"] == "container in a virtual machine"
    assert facts["cpu"] == "Fast"
    assert facts["cores"] >= 1


def test_what_the_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    facts = device_facts(written(tmp_path, {f"{CPUFREQ}/scaling_cur_freq": "<unknown>"}))
    assert (facts["governor"], facts["clock_mhz"], facts["max_clock_mhz"]) == (None, None, None)
    assert facts["surroundings"] == "no container or virtual machine seen"
    assert facts["cpu"] == (platform.processor() or platform.machine())


@needs_affinity
def test_a_process_is_held_on_its_cores_and_let_go_again() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with held_on_cores((core,)):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with held_on_cores(()):
        assert os.sched_getaffinity(0) == before


@needs_affinity
def test_a_core_that_is_not_there_is_named_with_those_that_are() -> None:
    with (
        pytest.raises(AffinityError, match=r"names core 9999, which .* it may use .*\d"),
        held_on_cores((9999,)),
    ):
        pass


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
