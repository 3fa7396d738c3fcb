"""What every exporter must do that makes its files from ONNX files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fairdeploy.deployment.exporter_api import Exporter, unusable_because
from fairdeploy.deployment.variant_checks import check_variant, make_examples, tolerance_of
from fairdeploy.errors import ExportError
from fairdeploy_onnx import OnnxExporter
from tests.contracts.test_exporter_contract import EXPORTERS
from tests.deployment.fakes import profile
from tests.exporters.captured_networks import EXAMPLE, captured
from tests.exporters.test_quantization import batches


@pytest.fixture(scope="module", params=[name for name in EXPORTERS if EXPORTERS[name].kind])
def exporter(request: pytest.FixtureRequest) -> Exporter:
    kind = EXPORTERS[request.param].kind
    assert kind is not None
    made: Exporter = kind()
    reason = made.is_available()
    if reason is not None:
        pytest.skip(reason)
    return made


@pytest.fixture(scope="module")
def converter(exporter: Exporter) -> Exporter:
    if not exporter.precisions:
        pytest.skip(f"exporter '{exporter.name}' makes no files from ONNX")
    return exporter


@pytest.fixture(scope="module")
def sources(converter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ONNX files that the converter may ask for, by precision."""
    folder = tmp_path_factory.mktemp("sources")
    onnx = OnnxExporter()
    onnx.export(captured(), EXAMPLE, folder / "fp32.onnx", dynamic_batch=True, metadata={})
    for precision in {converter.onnx_precision(own) for own in converter.precisions} - {"fp32"}:
        onnx.convert(folder / "fp32.onnx", folder / f"{precision}.onnx", precision, batches())
    return folder


def test_every_precision_is_written_whole_and_follows_torch(
    exporter: Exporter, converter: Exporter, sources: Path, tmp_path: Path
) -> None:
    images = batches(4, seed=9)
    import torch

    inputs = (torch.cat([torch.from_numpy(batch) for (batch,) in images]),)
    examples = make_examples(captured(), inputs, None, main_output=0, batch=None)
    assert "fp32" in converter.precisions
    for precision in converter.precisions:
        source = sources / f"{converter.onnx_precision(precision)}.onnx"
        path = tmp_path / f"model-{precision}{exporter.file_suffix}"
        artifact = converter.convert(source, path, precision, batches())
        assert (artifact.path, artifact.precision) == (path.name, precision)
        assert artifact.size_bytes >= path.stat().st_size > 0
        left = {file.name for file in tmp_path.iterdir()}
        assert all(name.startswith("model-") for name in left)
        target = profile(
            runtime=exporter.name, providers=(EXPORTERS[exporter.name].provider,),
            precision=precision,
        )  # fmt: skip
        if unusable_because(target, {exporter.name: exporter}) is not None:
            continue
        # random weights stand closer to rounding than trained ones
        tolerance = replace(tolerance_of(precision, 1e-4), max_column_error=0.6)
        runner = exporter.open(path, target)
        check = check_variant(runner, artifact, examples, tolerance, max_drop=1.0)
        runner.close()
        assert check.failures() == (), precision


def test_a_file_that_is_not_onnx_is_one_line(
    exporter: Exporter, converter: Exporter, tmp_path: Path
) -> None:
    (tmp_path / "picture.onnx").write_bytes(b"GIF89a" * 20)
    for precision in converter.precisions:
        path = tmp_path / f"model{exporter.file_suffix}"
        with pytest.raises(ExportError, match=r"picture.onnx") as caught:
            converter.convert(tmp_path / "picture.onnx", path, precision, batches(1))
        assert "\n" not in str(caught.value)
        assert not path.exists()
