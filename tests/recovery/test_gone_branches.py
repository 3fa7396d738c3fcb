"""Least squares where residual blocks are gone: the layer before makes what they added, too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.least_squares.fittable_layers import (
    RECTIFIED,
    FittableLayer,
    find_layers,
)
from fairdeploy.surgery.removal import remove_units
from tests.recovery.shrunk_networks import Pair
from tests.residual_networks import images, network


def without(module: nn.Module, *names: str) -> Pair:
    graph = build_unit_graph(module, (images(2),), blocks=True)
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    removed[[branch.unit for branch in graph.branches if branch.name in names]] = True
    return Pair(graph, removed, remove_units(graph, removed).module)


def layer_of(pair: Pair, name: str) -> FittableLayer:
    layers = find_layers(pair.graph, pair.shrunk, pair.removed)
    return next(layer for layer in layers if layer.name == name)


def total_of(pair: Pair, name: str) -> str:
    return next(branch.total for branch in pair.graph.branches if branch.name == name)


def test_target_of_the_layer_before_is_the_sum_after_the_last_block_gone() -> None:
    pair = without(network("option A"), "layer1.1", "layer1.2")
    layer = layer_of(pair, "layer1.0.conv2")
    assert layer.target_node == total_of(pair, "layer1.2")
    assert layer.sum_after is not None
    assert layer.sum_after.node == total_of(pair, "layer1.0")
    assert layer.limits == RECTIFIED


def test_target_stays_where_another_block_comes_first() -> None:
    pair = without(network("option A"), "layer1.2")
    assert layer_of(pair, "layer1.0.conv2").target_node == total_of(pair, "layer1.0")
    assert layer_of(pair, "layer1.1.conv2").target_node == total_of(pair, "layer1.2")


def test_stream_without_rectifiers_is_followed_too() -> None:
    pair = without(network("transformer"), "blocks.0.mlp", "blocks.1.attn")
    layer = layer_of(pair, "blocks.0.attn.proj")
    assert layer.target_node == total_of(pair, "blocks.1.attn")
    assert layer.limits is None


def test_stem_makes_up_for_the_block_after_it() -> None:
    pair = without(network("option A"), "layer1.0")
    layer = layer_of(pair, "conv1")
    assert layer.target_node == total_of(pair, "layer1.0")
    assert layer.limits == RECTIFIED


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("option A", ("layer1.1", "layer2.2")),
        ("projected", ("layer1.2", "layer2.0")),
        ("convnext", ("blocks.1",)),
        ("transformer", ("blocks.1.mlp", "blocks.2.attn")),
    ],
)
def test_repaired_network_is_nearer_to_the_original(kind: str, names: tuple[str, ...]) -> None:
    module = network(kind)
    pair = without(module, *names)
    held_out = images(64, seed=9)
    with torch.no_grad():
        before = error(pair.shrunk(held_out), module(held_out))
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, images(192, seed=8))
        after = error(pair.shrunk(held_out), module(held_out))
    assert after < 0.8 * before


class Constant(nn.Module):
    """A block that adds the same to all images, before a linear stream's last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.more, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(x)
        x = x + self.more(x.relu())
        return self.head(x.mean((2, 3)))


def test_constant_of_a_block_comes_back_in_the_bias_before_it() -> None:
    module = Constant().eval()
    with torch.no_grad():
        module.conv.weight.zero_()
    pair = without(module, "conv")
    with torch.no_grad():
        assert error(pair.shrunk(images(8)), module(images(8))) > 1e-4
        fit_least_squares(pair.graph, pair.shrunk, pair.removed, images(64, seed=1))
        assert error(pair.shrunk(images(8)), module(images(8))) < 1e-8


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().mean() / expected.square().mean())
