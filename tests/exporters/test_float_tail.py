"""Outputs that join values of other scales survive INT8, each column on its own scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.output_columns import Array, compare_columns
from fairdeploy.graph.units import build_unit_graph
from fairdeploy_onnx import OnnxExporter
from fairdeploy_onnx.float_tail import Tail, float_tail, leave_in_float
from fairdeploy_onnx.model_files import opened, run_batch
from fairdeploy_onnx.quantization import EXTENTS, SCHEMES, foldable_copy, quantized, value_ranges
from fairdeploy_openvino import OpenvinoExporter
from tests.deployment.fakes import profile


class Joined(nn.Module):
    """Coordinates in pixels beside scores in [0, 1], at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU())
        self.box, self.score = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 7, places]."""
        x = self.body(x)
        box, score = self.box(x).flatten(2), self.score(x).flatten(2)
        return torch.cat([640 * (box + 1), 0.3 * score.sigmoid()], 1)


class OneProduct(nn.Module):
    """Two numbers of other sizes from one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(108, 2)
        with torch.no_grad():
            self.head.weight[1] *= 500

    def forward(self, x: Tensor) -> Tensor:
        """[N, 2]."""
        return self.head(self.body(x))


class Beside(nn.Module):
    """Class scores, and joined values as an output beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.joined, self.head = Joined(), nn.Linear(108, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Both."""
        scores = self.head(self.joined.body(x).flatten(1))
        return {"scores": scores, "joined": self.joined(x)}


NETWORKS = (Joined, OneProduct, Beside)


def batches(count: int = 8, seed: int = 0) -> list[tuple[Array]]:
    random = np.random.default_rng(seed)
    return [(random.standard_normal((8, 3, 8, 8)).astype(np.float32),) for _ in range(count)]


def written(network: type[nn.Module], folder: Path) -> Path:
    torch.manual_seed(3)
    example = (torch.zeros(2, 3, 8, 8),)
    graph = build_unit_graph(network().eval(), example)
    path = folder / "m.onnx"
    OnnxExporter().export(graph.module, example, path, dynamic_batch=True, metadata={})
    return path


def outputs_of(exporter: Exporter, path: Path, runtime: str, precision: str) -> list[Array]:
    (images,) = zip(*batches(8, seed=1), strict=True)
    provider = "CPU" if runtime == "openvino" else "CPUExecutionProvider"
    target = profile(runtime=runtime, providers=(provider,), precision=precision)
    runner = exporter.open(path, target)
    try:
        return list(runner.run((np.concatenate(images),)))
    finally:
        runner.close()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scheme", ["int8", "int8-symmetric"])
def test_no_column_is_lost_in_int8(network: type[nn.Module], scheme: str, tmp_path: Path) -> None:
    path = written(network, tmp_path)
    OnnxExporter().convert(path, tmp_path / "q.onnx", scheme, batches())
    expected = outputs_of(OnnxExporter(), path, "onnx", "fp32")
    found = compare_columns(
        expected, outputs_of(OnnxExporter(), tmp_path / "q.onnx", "onnx", "int8")
    )
    assert found.problems == ()
    assert found.error < 0.15
    kinds = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert "QuantizeLinear" in kinds


@pytest.mark.parametrize("network", NETWORKS)
def test_the_openvino_file_keeps_every_column_too(network: type[nn.Module], tmp_path: Path) -> None:
    path = written(network, tmp_path)
    OpenvinoExporter().convert(path, tmp_path / "q.xml", "int8", iter(batches()))
    expected = outputs_of(OnnxExporter(), path, "onnx", "fp32")
    got = outputs_of(OpenvinoExporter(), tmp_path / "q.xml", "openvino", "int8")
    found = compare_columns(expected, got)
    assert found.problems == ()
    assert found.error < 0.2


@pytest.mark.parametrize("network", [Joined, OneProduct])
def test_without_the_float_tail_the_small_columns_are_lost(
    network: type[nn.Module], tmp_path: Path
) -> None:
    model = foldable_copy(written(network, tmp_path))
    ranges = value_ranges(model, "minmax", batches())
    (batch,) = batches(1, seed=1)
    expected = run_batch(opened(model), batch)
    plain = quantized(model, ranges, SCHEMES["int8"], EXTENTS[0])
    assert compare_columns(expected, run_batch(opened(plain), batch)).error > 0.5
    tail = float_tail(model, expected, batch)
    better = quantized(model, ranges, SCHEMES["int8"], EXTENTS[0], kept=tail.nodes)
    leave_in_float(better, tail.values)
    assert compare_columns(expected, run_batch(opened(better), batch)).error < 0.1


def test_a_network_of_like_scales_has_no_tail(tmp_path: Path) -> None:
    class Plain(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    model = foldable_copy(written(Plain, tmp_path))
    (batch,) = batches(1)
    assert float_tail(model, run_batch(opened(model), batch), batch) == Tail()
