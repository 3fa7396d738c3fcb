"""The work of single nodes adds up to the whole network's, and follows the units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.cost_terms import node_works
from fairdeploy.graph.unit_graph import CostTerm
from fairdeploy.graph.units import build_unit_graph


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))


def value(terms: tuple[CostTerm, ...], kept: list[int]) -> float:
    return sum(
        term.coefficient
        * math.prod(fixed + sum(m * kept[g] for g, m in pairs) for fixed, pairs in term.dims)
        for term in terms
    )


def test_work_of_each_node_is_right_before_and_after_removal() -> None:
    graph = build_unit_graph(Small().eval(), (torch.zeros(2, 3, 10, 12),))
    sizes = [group.size for group in graph.groups]
    assert sizes == [8, 6]
    works = {work.node: work for work in node_works(graph)}
    kinds = {name: work.kind for name, work in works.items()}
    whole = {name: value(work.terms, sizes) for name, work in works.items()}
    less = {name: value(work.terms, [4, 3]) for name, work in works.items()}
    pixels = 10 * 12
    assert kinds["conv2d"] == "macs"
    assert kinds["relu"] == "elements"
    assert whole["conv2d"] == 27 * 8 * pixels
    assert less["conv2d"] == 27 * 4 * pixels
    assert whole["relu"] == 8 * pixels
    assert less["conv2d_1"] == 4 * 3 * pixels
    assert less["linear"] == 3 * 5
    macs = sum(amount for name, amount in whole.items() if kinds[name] == "macs")
    assert macs == pytest.approx(value(graph.cost_terms["macs"], sizes))
