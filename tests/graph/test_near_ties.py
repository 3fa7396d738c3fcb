"""What only rounding could tell apart is equal; everything else keeps its order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.graph.near_ties import ROUNDING, settled

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30).map(np.array)


def test_near_ties_become_equal_to_the_lowest_of_them_and_others_stay() -> None:
    found = settled(np.array([3.0, 1.0 + 1e-8, 2.0, 1.0, 1.0 + 2e-8]))
    assert found.tolist() == [3.0, 1.0, 2.0, 1.0, 1.0]


def test_a_run_is_equal_throughout_wherever_a_grid_would_have_cut_it() -> None:
    for start in np.linspace(1.0, 1.0 + 3 * ROUNDING, 50):
        assert len(set(settled(np.array([start, start + 1e-8, 5.0])))) == 2


def test_dust_around_zero_is_equal_beside_values_that_count() -> None:
    assert settled(np.array([1e-12, -1e-12, 0.0, 4.0, 5.0, 6.0, 7.0])).tolist()[:3] == [-1e-12] * 3


def test_a_single_huge_value_does_not_make_the_others_equal() -> None:
    assert settled(np.array([1.0, 1.1, 1.2, 1e30])).tolist() == [1.0, 1.1, 1.2, 1e30]


def test_values_that_are_far_apart_but_small_keep_their_order() -> None:
    values = np.array([1e-9, 3e-9, 2e-9])
    assert settled(values).tolist() == values.tolist()


@pytest.mark.parametrize("values", [[], [2.0], [np.inf, -np.inf, 1.0], [np.inf, np.inf]])
def test_too_few_and_infinite_values_stay_as_they_are(values: list[float]) -> None:
    assert settled(np.array(values)).tolist() == values


@given(VALUES)
def test_order_is_kept_where_values_are_told_apart(values: np.ndarray) -> None:
    found = settled(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found <= values).all()


@given(VALUES, st.randoms(use_true_random=False))
def test_the_same_values_in_another_order_are_settled_alike(values: np.ndarray, random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    assert settled(values[order]).tolist() == settled(values)[order].tolist()


def test_rows_of_blocks_keep_their_shape_and_are_settled_together() -> None:
    found = settled(np.array([[1.0, 2.0], [1.0 + 1e-9, 3.0]]))
    assert found.tolist() == [[1.0, 2.0], [1.0, 3.0]]
