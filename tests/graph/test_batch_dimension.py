"""Where the images lie in every value: only what belongs to an image changes with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn

from fairdeploy.graph.batch_dimension import BatchDimension, batch_dimensions
from fairdeploy.graph.capture.model_inputs import inputs_of_example
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from tests.random_networks import IMAGE, RandomNetwork, networks, randomise


class Encoder(nn.Module):
    """Patches through an encoder that has the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.pos = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.zeros(16, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(self.patch(x).flatten(2).permute(2, 0, 1) + self.pos)
        return self.head(y.mean(0))


class Rows(nn.Module):
    """Rows of the image as a sequence, through a recurrent layer that has the sequence first."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = kind(24, 6, 1, bidirectional=True)
        self.mix, self.head = nn.Linear(12, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x.permute(2, 0, 1, 3).flatten(2))
        return self.head(self.mix(y).relu().mean(0))


class Frames(nn.Module):
    """Folds columns into the batch, before the images or after them, around a convolution."""

    def __init__(self, is_time_first: bool) -> None:
        super().__init__()
        self.is_time_first = is_time_first
        self.conv, self.mix = nn.Conv1d(3, 6, 3, padding=1), nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        order = (3, 0, 1, 2) if self.is_time_first else (0, 3, 1, 2)
        y = self.conv(x.permute(order).reshape(n * w, c, h)).relu().mean(2)
        y = self.mix(y).relu()
        y = y.reshape(w, n, 6).mean(0) if self.is_time_first else y.reshape(n, w, 6).mean(1)
        return self.head(y)


class Windows(nn.Module):
    """Attention within windows of the map, which are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 8, 1), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        y = self.conv(x).reshape(n, 8, 2, 4, 2, 4).permute(3, 5, 0, 2, 4, 1).reshape(16, n * 4, 8)
        y, _ = self.attention(y, y, y)
        return self.head(y.mean(0).reshape(n, 4, 8).mean(1))


KINDS = {
    "encoder": Encoder,
    "lstm": lambda: Rows(nn.LSTM),
    "gru": lambda: Rows(nn.GRU),
    "time outside": lambda: Frames(True),
    "time inside": lambda: Frames(False),
    "windows": Windows,
}


def values(module: fx.GraphModule, x: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.no_grad():
        Recorder(module).run(x)
    return found


def check_images(graph: UnitGraph, images: int) -> dict[str, BatchDimension]:
    """Changing one image changes nothing that is said to belong to others."""
    where = dict(batch_dimensions(graph))
    x = torch.randn(images, *graph.example_inputs[0].shape[1:])
    one = images // 2
    other = x.clone()
    other[one] = torch.randn_like(other[one])
    before, after = values(graph.module, x), values(graph.module, other)
    others = [image for image in range(images) if image != one]
    for name, batch in where.items():
        first, second = (batch.images_first(found[name], images) for found in (before, after))
        if first.dtype.is_floating_point:
            torch.testing.assert_close(first[others], second[others])
    return where


@pytest.mark.parametrize("kind", list(KINDS))
def test_images_are_found_in_networks_that_have_them_elsewhere(kind: str) -> None:
    graph = build_unit_graph(randomise(KINDS[kind](), 3), (torch.zeros(2, *IMAGE),))
    for images in (3, 4):
        where = check_images(graph, images)
    layers = {"linear", "conv1d", "conv2d", "lstm", "gru"}
    named = [n for n in graph.module.graph.nodes if str(n.target).split(".")[-2:][0] in layers]
    assert {node.name for node in named if isinstance(node.meta["val"], Tensor)} <= set(where)


def test_the_dimension_of_the_images_and_what_is_folded_in_are_told() -> None:
    def of(network: nn.Module, layer: str) -> list[BatchDimension]:
        graph = build_unit_graph(randomise(network, 3), (torch.zeros(2, *IMAGE),))
        where = batch_dimensions(graph)
        nodes = graph.module.graph.nodes
        return [
            where[node.name]
            for node in nodes
            if node.name.startswith(layer) and node.op == "call_function"
        ]

    assert of(Rows(nn.LSTM), "linear") == [BatchDimension(1), BatchDimension(0)]
    assert of(Frames(True), "conv") == [BatchDimension(0, outer=8)]
    assert of(Frames(False), "conv") == [BatchDimension(0, inner=8)]
    assert BatchDimension(1, inner=4) in of(Windows(), "linear")


def test_images_are_found_where_the_batch_is_fixed() -> None:
    network = randomise(Encoder(), 3)
    inputs = inputs_of_example(network, (torch.zeros(4, *IMAGE),))
    object.__setattr__(inputs, "is_batch_fixed", True)
    graph = build_unit_graph(network, inputs)
    assert not graph.has_dynamic_batch
    where = check_images(graph, 4)
    nodes = [node for node in graph.module.graph.nodes if node.name.startswith("linear")]
    assert [where[node.name].dim for node in nodes][-2:] == [1, 0]


@settings(max_examples=8, deadline=None)
@given(networks(max_blocks=3))
def test_images_are_found_in_random_networks(network: RandomNetwork) -> None:
    graph = build_unit_graph(network, network.examples())
    where = check_images(graph, 3)
    points = [
        node for node in graph.module.graph.nodes if node.name.startswith(("conv2d", "linear"))
    ]
    assert points
    assert {node.name for node in points} <= set(where)
