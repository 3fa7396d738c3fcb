"""An exporter writes in the precision of the target, by way of the ONNX file that it wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairdeploy.deployment import file_writing
from fairdeploy.deployment.exporter_api import Exporter, guarded_exporter, offers
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile
from tests.deployment.fakes import ProfilingExporter, WorkingExporter, profile

MODULE = torch.fx.symbolic_trace(nn.Identity())
IMAGES = (torch.zeros(2, 3, 4, 4),)


class Onnx(WorkingExporter):
    """Writes which precision it was asked for."""

    name = "onnx"
    file_suffix = ".onnx"
    precisions = ("fp32", "fp16")

    def export(self, *arguments: Any, metadata: Mapping[str, str], **options: Any) -> Artifact:
        path: Path = arguments[2]
        path.write_text(f"onnx of {metadata['plan']}")
        return Artifact(path.name, "onnx", "fp32", "", 1)

    def convert(self, onnx_path: Path, path: Path, precision: str, calibration: Any) -> Artifact:
        path.write_text(f"{precision} {onnx_path.read_text()}")
        return Artifact(path.name, "onnx", precision, "", 1)


class Engine(ProfilingExporter):
    """Makes its file from the ONNX file of the same precision."""

    name = "engine"
    precisions = ("fp32", "fp16", "int8")

    def onnx_precision(self, precision: str) -> str:
        return precision

    def convert(self, onnx_path: Path, path: Path, precision: str, calibration: Any) -> Artifact:
        path.write_text(f"engine from {onnx_path.read_text()}")
        return Artifact(path.name, "engine", precision, "", 1)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Exporter] = {"onnx": Onnx(), "engine": Engine(), "working": WorkingExporter()}
    monkeypatch.setattr(file_writing, "get_exporter", lambda name: guarded_exporter(found[name]))


def written(target: TargetProfile, folder: Path) -> str:
    exporter = exporter_for(target)
    path = folder / "model"
    artifact = exporter.export(
        MODULE, IMAGES, path, dynamic_batch=True, metadata={"plan": "p"}, names=None
    )
    assert artifact.precision == target.precision
    return path.read_text()


def test_fp32_is_the_exporter_itself() -> None:
    assert isinstance(exporter_for(profile(runtime="engine")).plug_in, Engine)  # type: ignore[attr-defined]


def test_another_precision_goes_by_way_of_the_onnx_file_that_the_format_wants(
    tmp_path: Path,
) -> None:
    assert written(profile(runtime="engine", precision="fp16"), tmp_path) == (
        "engine from fp16 onnx of p"
    )
    assert written(profile(runtime="onnx", precision="fp16"), tmp_path) == "fp16 onnx of p"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_operators_are_still_timed(tmp_path: Path) -> None:
    exporter = exporter_for(profile(runtime="engine", precision="fp16"))
    assert offers(exporter, "operator_times")
    (time,) = exporter.operator_times(tmp_path / "m", (), profile(), num_runs=7)
    assert time.median_ms == 7.0
    other = exporter_for(profile(runtime="onnx", precision="fp16"))
    assert not offers(other, "operator_times")


def test_a_precision_that_no_step_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'phone' asks for precision 'bf16', which the exporter"):
        exporter_for(profile(name="phone", runtime="engine", precision="bf16"))
    with pytest.raises(ExportError, match="exporter 'working' does not write"):
        exporter_for(profile(runtime="working", precision="fp16"))
    with pytest.raises(ExportError, match="the exporter 'onnx' does not write precision 'int8'"):
        written(profile(runtime="engine", precision="int8"), tmp_path)
