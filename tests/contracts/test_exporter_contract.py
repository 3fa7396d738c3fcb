"""What every exporter must do; add a line to ``EXPORTERS`` to put one under contract."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fairdeploy.deployment.exporter_api import (
    Exporter,
    Runner,
    get_exporter,
    guarded_exporter,
    load_exporters,
    unusable_because,
)
from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile
from fairdeploy_onnx import OnnxExporter
from fairdeploy_openvino import OpenvinoExporter
from fairdeploy_tensorrt import TensorrtExporter, TensorrtRtxExporter, TorchTensorrtExporter
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured

THIRD_PARTY = Path(__file__).parent / "third_party"
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Contract:
    """An exporter of ours, or None for one that is found by its entry point alone."""

    kind: type | None
    provider: str
    writes_without_device: bool = True
    """Whether files can be written where they cannot be run."""


EXPORTERS = {
    "onnx": Contract(OnnxExporter, "CPUExecutionProvider"),
    "openvino": Contract(OpenvinoExporter, "CPU"),
    "tensorrt": Contract(TensorrtExporter, "TensorRT", writes_without_device=False),
    "tensorrt-rtx": Contract(TensorrtRtxExporter, "TensorRT-RTX"),
    "torch-tensorrt": Contract(TorchTensorrtExporter, "TensorRT", writes_without_device=False),
    "tiny": Contract(None, "torch"),
    "least": Contract(None, "torch"),
}


@pytest.fixture(scope="module", autouse=True)
def third_party() -> Iterator[None]:
    """Install the exporters of somebody else, as pip would."""
    sys.path.insert(0, str(THIRD_PARTY))
    yield
    sys.path.remove(str(THIRD_PARTY))
    for name in ("tiny_exporter", "least_exporter"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module", params=EXPORTERS)
def exporter(request: pytest.FixtureRequest, third_party: None) -> Exporter:
    kind = EXPORTERS[request.param].kind
    made: Exporter = kind() if kind is not None else get_exporter(request.param)
    reason = made.is_available()
    if reason is not None:
        pytest.skip(reason)
    return made


@pytest.fixture(scope="module")
def target(exporter: Exporter) -> TargetProfile:
    return profile(runtime=exporter.name, providers=(EXPORTERS[exporter.name].provider,))


@pytest.fixture(scope="module")
def problem(exporter: Exporter, target: TargetProfile) -> str | None:
    """Why files cannot be run here."""
    return unusable_because(target, {exporter.name: exporter})


@pytest.fixture(scope="module")
def written(
    exporter: Exporter, problem: str | None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Artifact]:
    """A file that was written over an older one, through the guard."""
    if problem is not None and not EXPORTERS[exporter.name].writes_without_device:
        pytest.skip(problem)
    path = tmp_path_factory.mktemp("contract") / f"model{exporter.file_suffix}"
    path.write_bytes(b"old")
    artifact = guarded_exporter(exporter).export(
        captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"}
    )
    return path, artifact


@pytest.fixture(scope="module")
def runnable(written: tuple[Path, Artifact], problem: str | None) -> Path:
    """The file, where it can be run."""
    if problem is not None:
        pytest.skip(problem)
    return written[0]


def test_every_exporter_that_comes_with_fairdeploy_is_under_contract() -> None:
    assert set(load_exporters()) <= set(EXPORTERS)


def test_an_exporter_of_somebody_else_is_found_by_its_entry_point() -> None:
    found = load_exporters()
    assert {"onnx", "tiny"} <= set(found)
    assert found["tiny"].file_suffix == ".tiny"


def test_an_exporter_fits_the_protocol_and_its_own_name(exporter: Exporter) -> None:
    assert isinstance(exporter, Exporter)
    assert isinstance(guarded_exporter(exporter), Exporter)
    assert exporter.name in EXPORTERS
    assert re.fullmatch(r"\.[a-z0-9]+", exporter.file_suffix)


def test_an_exported_file_gives_torch_s_outputs_at_two_batch_sizes(
    exporter: Exporter, target: TargetProfile, runnable: Path
) -> None:
    for runner in (
        exporter.open(runnable, target),
        guarded_exporter(exporter).open(runnable, target),
    ):
        require_parity(
            check_parity(runner, captured(), runnable.name, IMAGES, limit=target.parity_limit)
        )
        runner.close()


def test_a_runner_says_on_what_it_runs_and_closes_twice(
    exporter: Exporter, target: TargetProfile, runnable: Path
) -> None:
    runner = exporter.open(runnable, target)
    assert isinstance(runner, Runner)
    assert set(target.providers) <= set(runner.providers)
    assert runner.threads == target.threads
    runner.close()
    runner.close()


def test_an_artifact_is_named_relative_to_its_folder_and_what_belongs_to_it_lies_beside_it(
    written: tuple[Path, Artifact],
) -> None:
    path, artifact = written
    files = list(path.parent.iterdir())
    assert artifact.path == path.name
    assert artifact.size_bytes == sum(file.stat().st_size for file in files)
    assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(file.name.startswith(f"{path.stem}.") for file in files)


def test_a_file_of_another_format_is_refused(
    exporter: Exporter, target: TargetProfile, problem: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"picture{exporter.file_suffix}"
    path.write_bytes(b"GIF89a")
    with pytest.raises(
        ExportError, match=re.escape(path.name) if problem is None else None
    ) as caught:
        exporter.open(path, target)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_one_line(
    exporter: Exporter, written: tuple[Path, Artifact], tmp_path: Path
) -> None:
    path = tmp_path / "gone" / f"model{exporter.file_suffix}"
    with pytest.raises(ExportError, match=r"cannot write '.*gone.model") as caught:
        guarded_exporter(exporter).export(
            captured(), EXAMPLE, path, dynamic_batch=True, metadata={}
        )
    assert "\n" not in str(caught.value)


def test_an_exporter_that_makes_its_file_from_onnx_refuses_what_is_not_onnx(
    exporter: Exporter, tmp_path: Path
) -> None:
    converter = exporter
    if not converter.precisions:
        pytest.skip(f"exporter '{exporter.name}' does not convert")
    assert "fp32" in converter.precisions
    picture = tmp_path / "picture.onnx"
    picture.write_bytes(b"GIF89a")
    path = tmp_path / f"model{exporter.file_suffix}"
    with pytest.raises(ExportError, match=r"picture.onnx") as caught:
        converter.convert(picture, path, "fp32", None)
    assert "\n" not in str(caught.value)
    assert not path.exists()
