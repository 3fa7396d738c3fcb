from __future__ import annotations

import math
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.cost import CostModel
from fairdeploy.graph.unit_graph import CostTerm

# A 3x3 convolution from 3 fixed channels to group 0, one from group 0 to group 1, and a classifier
# that reads group 1 flattened over 4 positions.
CHAIN = (
    CostTerm(27.0, ((0, ((0, 1),)),)),
    CostTerm(9.0, ((0, ((0, 1),)), (0, ((1, 1),)))),
    CostTerm(10.0, ((0, ((1, 4),)),)),
    CostTerm(10.0, ()),
)


def slow_cost(terms: tuple[CostTerm, ...], kept: list[int]) -> float:
    """The definition, term by term."""
    return math.fsum(
        term.coefficient
        * math.prod(
            fixed + sum(times * kept[group] for group, times in pairs) for fixed, pairs in term.dims
        )
        for term in terms
    )


def test_cost_of_a_small_chain_is_right() -> None:
    model = CostModel({"params": CHAIN}, num_groups=2)
    assert model.cost(np.array([8, 16])) == {"params": 27 * 8 + 9 * 8 * 16 + 10 * 64 + 10}


def test_batch_of_candidates_costs_what_each_costs_alone() -> None:
    model = CostModel({"params": CHAIN, "macs": CHAIN[:2]}, num_groups=2)
    candidates = np.array([[8, 16], [1, 1], [3, 7]])
    together = model.costs(candidates)
    for row, kept in enumerate(candidates):
        assert {name: value[row] for name, value in together.items()} == model.cost(kept)


def test_metric_without_terms_costs_nothing() -> None:
    assert CostModel({"macs": ()}, num_groups=1).cost(np.array([3])) == {"macs": 0.0}


def test_network_without_groups_has_a_constant_cost() -> None:
    model = CostModel({"params": (CostTerm(7.0, ()),)}, num_groups=0)
    assert model.cost(np.empty(0, dtype=np.int64)) == {"params": 7.0}


DIMS = st.tuples(
    st.integers(0, 4), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=3)
)
TERMS = st.lists(
    st.tuples(st.integers(0, 50).map(float), st.lists(DIMS, max_size=4)), min_size=1, max_size=8
)


@given(TERMS, st.lists(st.integers(0, 20), min_size=3, max_size=3))
def test_cost_equals_the_sum_over_terms(
    raw: list[tuple[float, list[tuple[int, list[tuple[int, int]]]]]], kept: list[int]
) -> None:
    terms = tuple(
        CostTerm(scale, tuple((fixed, tuple(pairs)) for fixed, pairs in dims))
        for scale, dims in raw
    )
    model = CostModel({"params": terms}, num_groups=3)
    assert model.cost(np.array(kept))["params"] == slow_cost(terms, kept)


def test_a_thousand_terms_over_three_hundred_groups_take_well_under_a_millisecond() -> None:
    random = np.random.default_rng(0)
    terms = tuple(
        CostTerm(9.0, tuple((0, ((int(group), 1),)) for group in random.integers(0, 300, 2)))
        for _ in range(1000)
    )
    model = CostModel({"params": terms}, num_groups=300)
    kept = random.integers(1, 100, 300)
    best_s = math.inf
    for _ in range(30):
        start = time.process_time()
        model.costs(kept)
        best_s = min(best_s, time.process_time() - start)
    assert best_s < 1e-3
