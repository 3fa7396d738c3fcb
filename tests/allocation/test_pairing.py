"""One unit of each block goes at a time: the ones with the lowest U-Scores."""

from __future__ import annotations

import numpy as np

from fairdeploy.allocation.pairing import paired_scores, paired_units, places_in_groups
from fairdeploy.records import GroupScores

U = np.array([[3.0, 1.0, 2.0], [5.0, 6.0, 4.0]])
R = np.array([[30.0, 10.0, 20.0], [7.0, 8.0, 9.0]])


def test_the_lowest_of_each_block_go_together() -> None:
    places = paired_units(U, R)
    assert places.tolist() == [[1, 5], [2, 3], [0, 4]]
    u, r = paired_scores(U, R, places)
    assert u.tolist() == [2.5, 3.5, 4.5]
    assert r.tolist() == [19.0, 27.0, 38.0]


def test_r_decides_between_equal_u() -> None:
    u = np.zeros((2, 2))
    assert paired_units(u, np.array([[2.0, 1.0], [1.0, 2.0]])).tolist() == [[1, 2], [0, 3]]


def test_a_single_block_keeps_its_order() -> None:
    assert paired_units(U[:1], R[:1]).tolist() == [[0], [1], [2]]


def test_removed_rows_become_units_counted_block_after_block() -> None:
    places = paired_units(U, R)
    groups = (
        GroupScores("plain", np.zeros(3), np.zeros(3), 2),
        GroupScores("balanced", np.zeros(3), np.zeros(3), 2, places=places),
    )
    removed = {"plain": (0, 2), "balanced": (0, 1)}
    assert places_in_groups(groups, removed) == {"plain": (0, 2), "balanced": (1, 2, 3, 5)}
