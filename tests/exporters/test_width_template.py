"""A file cut to width has the nodes and shapes of the network exported at that width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.dimension_lengths import DimensionLengths
from fairdeploy.surgery.removal import remove_units
from fairdeploy_onnx import OnnxExporter
from fairdeploy_onnx.width_template import Untraceable, WidthTemplate
from tests.random_networks import RandomNetwork, networks
from tests.surgery.exactness import random_removal

Mask = NDArray[np.bool_]


def export(graph: UnitGraph, removed: Mask, path: Path) -> Path:
    module = remove_units(graph, removed).module
    OnnxExporter().export(
        module, graph.example_inputs, path, dynamic_batch=graph.has_dynamic_batch, metadata={}
    )
    return path


def first_of_each(graph: UnitGraph, share: float) -> Mask:
    """The first units of every block."""
    mask = np.zeros(graph.num_units, dtype=np.bool_)
    for group in graph.groups:
        for block in group.blocks:
            mask[block[: int(share * group.size)]] = True
    return mask


def template(graph: UnitGraph, probe: Mask, folder: Path) -> WidthTemplate:
    dims = DimensionLengths(graph)
    nothing = np.zeros(graph.num_units, dtype=np.bool_)
    return WidthTemplate(
        export(graph, nothing, folder / "whole.onnx"),
        export(graph, probe, folder / "probe.onnx"),
        dims.network_dims(),
        (dims.lengths(nothing), dims.lengths(probe)),
    )


def operands(path: Path) -> list[tuple[str, list[object]]]:
    """For each node its type, and of each constant that it reads the shape or the numbers."""
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def seen(name: str) -> object:
        if name not in constants:
            return "value"
        tensor = constants[name]
        if tensor.data_type == onnx.TensorProto.INT64:
            return onnx.numpy_helper.to_array(tensor).tolist()
        return list(tensor.dims)

    return [(node.op_type, [seen(name) for name in node.input]) for node in graph.node]


class Attention(nn.Module):
    """Equal biases of equal length: the exporter stores them once."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(24, 3 * 24) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        for layer in [*self.blocks, *self.projections]:
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for block, projection in zip(self.blocks, self.projections, strict=True):
            n, t, c = x.shape
            q, k, v = block(x).reshape(n, t, 3, 6, 4).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + projection(mixed.transpose(1, 2).reshape(n, t, c))
        return x.mean(1)


def test_blocks_that_shared_constants_get_their_own_lengths(tmp_path: Path) -> None:
    graph = build_unit_graph(Attention().eval(), (torch.randn(2, 5, 24),))
    heads = [group for group in graph.groups if group.size == 6]
    assert len(heads) == 2
    made = template(graph, first_of_each(graph, 0.5), tmp_path)
    wanted = np.zeros(graph.num_units, dtype=np.bool_)
    wanted[heads[0].blocks[:, :4]] = True
    wanted[heads[1].blocks[:, :1]] = True
    made.write(tmp_path / "cut.onnx", DimensionLengths(graph).lengths(wanted))
    real = export(graph, wanted, tmp_path / "real.onnx")
    assert operands(tmp_path / "cut.onnx") == operands(real)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=networks(max_blocks=2), seed=st.integers(0, 1000))
def test_cut_file_has_the_shapes_of_the_exported_network_and_runs(
    network: RandomNetwork, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    graph = build_unit_graph(network, network.examples())
    try:
        made = template(graph, first_of_each(graph, 0.5), folder)
    except Untraceable:
        return  # then each plan is exported
    removed = random_removal(graph, seed, 0.3)
    made.write(folder / "cut.onnx", DimensionLengths(graph).lengths(removed))
    real = export(graph, removed, folder / "real.onnx")
    assert operands(folder / "cut.onnx") == operands(real)
    session = onnxruntime.InferenceSession(folder / "cut.onnx")
    feed = {
        node.name: tensor.numpy()
        for node, tensor in zip(session.get_inputs(), network.examples(), strict=True)
    }
    (found, *_) = session.run(None, feed)
    assert len(found) == len(network.examples()[0])


def test_files_of_different_networks_make_no_template(tmp_path: Path) -> None:
    images = (torch.randn(2, 3, 8, 8),)
    one = build_unit_graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).eval(), images)
    two = build_unit_graph(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), images)
    nothing = np.zeros(one.num_units, dtype=np.bool_)
    first = export(one, nothing, tmp_path / "one.onnx")
    second = export(two, np.zeros(two.num_units, dtype=np.bool_), tmp_path / "two.onnx")
    dims = DimensionLengths(one)
    with pytest.raises(Untraceable, match="2 nodes and 1"):
        WidthTemplate(first, second, dims.network_dims(), (dims.lengths(nothing),) * 2)
