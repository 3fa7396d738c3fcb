"""Feasible kept counts, against a search through all counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.multiples import nearest_kept, smallest_kept


def nearest(kept: int, size: int, max_removed: int, step: int) -> int:
    return int(nearest_kept(*(np.array([n]) for n in (kept, size, max_removed, step)))[0])


def feasible_counts(size: int, max_removed: int, step: int) -> list[int]:
    """Multiples within the cap, and everything."""
    return [
        kept
        for kept in range(1, size + 1)
        if kept == size or (kept % step == 0 and size - kept <= max_removed)
    ]


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Kept count within the cap, size, cap and step."""
    size = draw(st.integers(1, 70))
    max_removed = draw(st.integers(0, size - 1))
    kept = draw(st.integers(size - max_removed, size))
    return kept, size, max_removed, draw(st.integers(1, 20))


@given(groups())
def test_nearest_feasible_count_is_what_trying_all_counts_finds(
    group: tuple[int, int, int, int],
) -> None:
    kept, *limits = group
    counts = feasible_counts(*limits)
    assert nearest(kept, *limits) == min(counts, key=lambda count: (abs(count - kept), -count))


@given(groups())
def test_smallest_feasible_count_is_the_first_of_all(group: tuple[int, int, int, int]) -> None:
    _, *limits = group
    smallest = smallest_kept(*(np.array([n]) for n in limits))
    assert smallest.tolist() == feasible_counts(*limits)[:1]


@given(groups())
def test_nearest_count_never_falls_when_more_is_kept(group: tuple[int, int, int, int]) -> None:
    _, size, max_removed, step = group
    counts = [
        nearest(kept, size, max_removed, step) for kept in range(size - max_removed, size + 1)
    ]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("kept", "size", "max_removed", "step", "nearest_count"),
    [
        (19, 64, 63, 16, 16),
        (24, 64, 63, 16, 32),  # two are equally near: the larger
        (3, 64, 63, 16, 16),  # never none
        (23, 64, 41, 16, 32),  # 16 is nearer but below the cap
        (9, 12, 11, 16, 12),  # no multiple at all
        (22, 24, 23, 16, 24),  # everything is allowed, a multiple or not
    ],
)
def test_worked_examples(
    kept: int, size: int, max_removed: int, step: int, nearest_count: int
) -> None:
    assert nearest(kept, size, max_removed, step) == nearest_count
