"""Facts of layers, computed by hand for a network of three convolutions and a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.layer_facts import LayerFacts, layer_facts
from fairdeploy.graph.units import build_unit_graph


class Network(nn.Module):
    """A convolution, a depthwise one, a layer norm that freezes, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.second = nn.Conv2d(8, 6, 1, bias=False)
        self.norm = nn.LayerNorm([6, 4, 4])
        self.head = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of five classes."""
        x = self.second(self.each(self.first(x)).relu())
        return self.head(self.norm(x).mean((2, 3)))


@pytest.fixture(scope="module")
def found() -> dict[str, LayerFacts]:
    graph = build_unit_graph(Network().eval(), (torch.zeros(2, 3, 4, 4),))
    (group,) = graph.groups
    assert group.size == 8
    by_node = layer_facts(graph, graph.removed_mask({group.name: (0, 3)}))
    return {fact.module: fact for fact in by_node.values() if fact.macs[0]}


def test_macs_fall_with_the_units(found: dict[str, LayerFacts]) -> None:
    assert found["first"].macs == (16 * 8 * 27, 16 * 6 * 27)
    assert found["each"].macs == (16 * 8 * 9, 16 * 6 * 9)
    assert found["second"].macs == (16 * 6 * 8, 16 * 6 * 6)
    assert found["head"].macs == (30, 30)


def test_elements_count_operands_weights_and_result_of_one_image(
    found: dict[str, LayerFacts],
) -> None:
    assert found["first"].elements == (48 + 8 * 27 + 128, 48 + 6 * 27 + 96)
    assert found["head"].elements == (6 + 30 + 5, 6 + 30 + 5)


def test_channels_are_those_of_the_output(found: dict[str, LayerFacts]) -> None:
    assert found["first"].channels == (8, 6)
    assert found["second"].channels == (6, 6)
    assert found["head"].channels == (5, 5)


def test_only_the_depthwise_convolution_is_depthwise(found: dict[str, LayerFacts]) -> None:
    assert [name for name, fact in found.items() if fact.is_depthwise] == ["each"]


def test_groups_are_those_in_any_dimension_and_a_freeze_gives_its_reason(
    found: dict[str, LayerFacts],
) -> None:
    assert {name: fact.groups for name, fact in found.items()} == {
        "first": (0,), "each": (0,), "second": (0,), "head": ()
    }  # fmt: skip
    assert found["first"].frozen_reason == ""
    assert found["second"].frozen_reason.startswith("layer_norm: ")


def test_operators_without_macs_have_sizes_only() -> None:
    graph = build_unit_graph(Network().eval(), (torch.zeros(2, 3, 4, 4),))
    facts = layer_facts(graph, np.zeros(graph.num_units, dtype=bool))
    relu = facts["relu"]
    assert (relu.macs, relu.elements, relu.channels) == ((0.0, 0.0), (256.0, 256.0), (0, 0))
