"""The model of latency agrees with the two networks that it was fitted to, and lies between."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.latency_model import latency_terms
from fairdeploy.graph.cost_terms import NodeWork
from fairdeploy.graph.unit_graph import CostTerm

SIZES = np.array([100])
LEAST = np.array([10])
WORKS = (
    NodeWork("conv", "macs", (CostTerm(9.0, ((0, ((0, 1),)),)),)),
    NodeWork("pool", "elements", (CostTerm(4.0, ((0, ((0, 1),)),)),)),
    NodeWork("head", "macs", (CostTerm(50.0, ()),)),
)


def ms_at(original: dict[str, float], smallest: dict[str, float], kept: int) -> float:
    terms = latency_terms(WORKS, original, smallest, LEAST, SIZES)
    return CostModel({"latency": terms}, 1).cost(np.array([kept]))["latency"]


def test_both_ends_are_exact() -> None:
    original = {"conv": 8.0, "pool": 2.0, "head": 1.0}
    smallest = {"conv": 2.6, "pool": 0.2, "head": 1.0}
    assert ms_at(original, smallest, 100) == pytest.approx(11.0)
    assert ms_at(original, smallest, 10) == pytest.approx(3.8)


def test_between_the_ends_it_is_a_straight_line() -> None:
    """The convolution keeps 2 ms whatever its width: 8 at 100 units, 2.6 at 10, 5 at 50."""
    original = {"conv": 8.0, "head": 1.0}
    smallest = {"conv": 2.6, "head": 1.0}
    assert ms_at(original, smallest, 50) == pytest.approx(5.0 + 1.0)


def test_time_without_a_node_that_shrinks_shrinks_with_the_rest() -> None:
    original = {"conv": 8.0, "": 2.0}
    smallest = {"conv": 0.8, "": 1.0}
    assert ms_at(original, smallest, 100) == pytest.approx(10.0)
    assert ms_at(original, smallest, 10) == pytest.approx(1.0 + 9.0 * 0.1)


def test_node_that_got_slower_still_counts_for_a_tenth() -> None:
    """Else nothing would seem to help, and no plan could be proposed."""
    assert ms_at({"conv": 1.0}, {"conv": 1.4}, 10) == pytest.approx(0.9 + 0.1 * 0.1)


def test_node_that_shrinks_faster_than_its_work_goes_with_its_work() -> None:
    assert ms_at({"conv": 10.0}, {"conv": 0.1}, 10) == pytest.approx(1.0)
