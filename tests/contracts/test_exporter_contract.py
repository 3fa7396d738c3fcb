"""What every exporter must do; add a line to ``EXPORTERS`` to put one under contract."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

from fairdeploy.deployment.exporter_api import Exporter, GuardedExporter, Runner
from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile
from fairdeploy_onnx import OnnxExporter
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured

EXPORTERS: dict[str, tuple[type, TargetProfile]] = {
    "onnx": (OnnxExporter, profile(runtime="onnx", providers=("CPUExecutionProvider",))),
}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=EXPORTERS)
def exporter(request: pytest.FixtureRequest) -> Exporter:
    made: Exporter = EXPORTERS[request.param][0]()
    reason = made.is_available()
    if reason is not None:
        pytest.skip(reason)
    return made


@pytest.fixture(scope="module")
def target(exporter: Exporter) -> TargetProfile:
    return EXPORTERS[exporter.name][1]


@pytest.fixture(scope="module")
def written(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """A file that was written over an older one, through the guard."""
    path = tmp_path_factory.mktemp("contract") / f"model{exporter.file_suffix}"
    path.write_bytes(b"old")
    artifact = GuardedExporter(exporter).export(
        captured(), EXAMPLE, path, dynamic_batch=True, metadata={"plan": "abc"}
    )
    return path, artifact


def test_an_exporter_fits_the_protocol_and_its_own_name(exporter: Exporter) -> None:
    assert isinstance(exporter, Exporter)
    assert isinstance(GuardedExporter(exporter), Exporter)
    assert exporter.name in EXPORTERS
    assert re.fullmatch(r"\.[a-z0-9]+", exporter.file_suffix)


def test_an_exported_file_gives_torch_s_outputs_at_two_batch_sizes(
    exporter: Exporter, target: TargetProfile, written: tuple[Path, Artifact]
) -> None:
    path, _ = written
    for runner in (exporter.open(path, target), GuardedExporter(exporter).open(path, target)):
        require_parity(
            check_parity(runner, captured(), path.name, IMAGES, limit=target.parity_limit)
        )
        runner.close()


def test_a_runner_says_on_what_it_runs_and_closes_twice(
    exporter: Exporter, target: TargetProfile, written: tuple[Path, Artifact]
) -> None:
    runner = exporter.open(written[0], target)
    assert isinstance(runner, Runner)
    assert set(target.providers) <= set(runner.providers)
    assert runner.threads == target.threads
    runner.close()
    runner.close()


def test_an_artifact_is_named_relative_to_its_folder_and_nothing_else_is_left(
    written: tuple[Path, Artifact],
) -> None:
    path, artifact = written
    assert artifact.path == path.name
    assert artifact.size_bytes == path.stat().st_size
    assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_another_format_is_refused(
    exporter: Exporter, target: TargetProfile, tmp_path: Path
) -> None:
    path = tmp_path / f"picture{exporter.file_suffix}"
    path.write_bytes(b"GIF89a")
    with pytest.raises(ExportError, match=re.escape(path.name)) as caught:
        exporter.open(path, target)
    assert "\n" not in str(caught.value)
