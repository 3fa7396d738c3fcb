"""Plug-ins are found by entry point, and nothing that they do becomes a traceback."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.deployment import exporter_api
from fairdeploy.deployment.exporter_api import (
    get_exporter,
    load_exporters,
    offers,
    unusable_because,
)
from fairdeploy.errors import DataError, ExportError
from tests.deployment.fakes import PROFILE, ProfilingExporter, profile

MODULE = torch.fx.symbolic_trace(nn.Identity())
IMAGES = (torch.zeros(2, 3, 4, 4),)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven plug-ins: two good, the others bad in different ways."""
    classes = {
        "working": "WorkingExporter",
        "unavailable": "UnavailableExporter",
        "failing": "FailingExporter",
        "incomplete": "IncompleteExporter",
        "crashing": "CrashingExporter",
        "absent": "NoSuchClass",
        "profiling": "ProfilingExporter",
        "picky": "PickyExporter",
    }
    group = exporter_api.ENTRY_POINT_GROUP
    entries = [
        EntryPoint(name, f"tests.deployment.fakes:{value}", group)
        for name, value in classes.items()
    ]
    monkeypatch.setattr(
        exporter_api, "entry_points", lambda **query: entries if query == {"group": group} else []
    )


def test_get_exporter_gives_a_plug_in_that_writes_and_opens(tmp_path: Path) -> None:
    exporter = get_exporter("working")
    artifact = exporter.export(
        MODULE, IMAGES, tmp_path / "model.txt", dynamic_batch=True, metadata={"a": "b"}
    )
    assert (exporter.name, exporter.file_suffix) == ("working", ".txt")
    assert artifact.path == "model.txt"
    assert (tmp_path / "model.txt").read_text() == "{'a': 'b'}"
    runner = exporter.open(tmp_path / "model.txt", PROFILE)
    assert runner.run((np.array([3.0]),))[0][0] == 3.0
    assert (runner.providers, runner.threads) == (("FakeProvider",), 1)
    runner.close()


def test_get_exporter_lists_the_installed_ones_when_the_name_is_unknown() -> None:
    with pytest.raises(ExportError, match=r"no exporter 'tpu'; use one of: absent, crashing, fail"):
        get_exporter("tpu")


def test_get_exporter_says_so_when_no_plug_in_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter_api, "entry_points", lambda **_: [])
    with pytest.raises(ExportError, match="no exporter 'onnx'; use one of: none is installed"):
        get_exporter("onnx")


def test_get_exporter_passes_on_what_to_install_when_the_runtime_is_missing() -> None:
    with pytest.raises(ExportError, match="needs libfake; run pip install libfake"):
        get_exporter("unavailable")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashing", r"'crashing' .* cannot be loaded: OSError: libfake.so: cannot open"),
        ("absent", r"'absent' .* cannot be loaded: AttributeError"),
        ("incomplete", r"'incomplete' .* lacks a part of the Exporter protocol"),
    ],
)
def test_get_exporter_says_why_a_plug_in_cannot_be_loaded(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        get_exporter(name)


def test_a_broken_plug_in_does_not_hide_the_others() -> None:
    exporters = load_exporters()
    assert list(exporters) == [
        "absent", "crashing", "failing", "incomplete", "picky", "profiling", "unavailable",
        "working",
    ]  # fmt: skip
    problems = {name: exporter.is_available() for name, exporter in exporters.items()}
    assert problems["working"] is None
    assert problems["crashing"] is not None
    assert "libfake.so" in problems["crashing"]


def test_every_use_of_a_broken_plug_in_says_what_is_wrong(tmp_path: Path) -> None:
    broken = load_exporters()["incomplete"]
    with pytest.raises(ExportError, match="lacks a part"):
        broken.export(MODULE, IMAGES, tmp_path / "m", dynamic_batch=True, metadata={})
    with pytest.raises(ExportError, match="lacks a part"):
        broken.open(tmp_path / "m", PROFILE)


def test_a_plug_in_s_exception_becomes_one_line_with_its_cause(tmp_path: Path) -> None:
    exporter = get_exporter("failing")
    with pytest.raises(ExportError) as caught:
        exporter.export(MODULE, IMAGES, tmp_path / "m.x", dynamic_batch=True, metadata={})
    assert str(caught.value) == (
        "exporter 'failing' could not write 'm.x': ZeroDivisionError: first line"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_runner_s_exception_becomes_one_line_with_the_file_s_name(tmp_path: Path) -> None:
    runner = get_exporter("failing").open(tmp_path / "m.x", PROFILE)
    with pytest.raises(ExportError, match=r"'m.x' failed to run: MemoryError: no message"):
        runner.run((np.zeros(1),))


def test_an_error_of_our_own_passes_the_guard_unchanged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a message of our own$"):
        get_exporter("failing").open(tmp_path / "ours", PROFILE)


def test_a_profiler_is_seen_through_the_guard_and_without_one(tmp_path: Path) -> None:
    for exporter in (get_exporter("profiling"), ProfilingExporter()):
        assert offers(exporter, "operator_times")
        (time,) = exporter.operator_times(tmp_path / "m", (), PROFILE, num_runs=7)
        assert (time.node, time.median_ms) == ("conv2d", 7.0)


def test_an_exporter_without_a_profiler_has_none() -> None:
    assert not offers(get_exporter("working"), "operator_times")
    assert not offers(load_exporters()["crashing"], "operator_times")


def test_a_profiler_s_exception_becomes_one_line_with_the_file_s_name(tmp_path: Path) -> None:
    exporter = get_exporter("profiling")
    with pytest.raises(ExportError, match=r"could not time the operators of 'bad': KeyError: 'ts'"):
        exporter.operator_times(tmp_path / "bad", (), PROFILE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "tpu"}, "no exporter 'tpu' is installed"),
        ({"runtime": "unavailable"}, "needs libfake"),
        ({"runtime": "crashing"}, "cannot be loaded"),
        ({"runtime": "picky", "precision": "int8"}, "no int8 here"),
        ({"runtime": "picky", "precision": "fp16"}, "exporter 'picky' failed: KeyError: 'fp16'"),
        (
            {"runtime": "working", "machine": "riscv64"},
            "it is an riscv64 device and this is .*; measure there",
        ),
    ],
)
def test_why_a_profile_is_unusable_is_told_by_who_knows(
    changes: dict[str, str], message: str
) -> None:
    problem = unusable_because(profile(**changes), load_exporters())
    assert problem is not None
    assert re.search(message, problem)


def test_an_exporter_that_does_not_judge_profiles_can_serve_all() -> None:
    assert unusable_because(profile(runtime="working"), load_exporters()) is None
    assert unusable_because(profile(runtime="picky"), load_exporters()) is None
