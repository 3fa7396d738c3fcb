"""The frontier and its knee, on curves whose knee is plain."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.allocation.trade_off import find_trade_off, non_dominated
from fairdeploy.records import Quality

STEADY = (3.0, 2.0, 1.0, 0.0)


def exact(*values: float) -> list[Quality]:
    return [Quality(value, value, value) for value in values]


def test_knee_is_highest_above_the_line_between_the_ends() -> None:
    # In the unit square: heights of 0.18, 0.35 and 0.20 over 0.8 above the line from 0.2 to 1.
    found = find_trade_off((100, 75, 50, 25, 0), exact(1.0, 0.98, 0.95, 0.60, 0.2))
    assert found.knee == 2
    assert found.reason.startswith("farthest above the straight line")
    assert found.quality == "accuracy"


def test_knee_is_never_a_point_that_another_beats() -> None:
    # The line falls from 1 to 0, so that the dearer of two equally good points lies higher above.
    found = find_trade_off((0, 1, 2, 3), exact(1.0, 2.0, 2.0, 0.0))
    assert found.knee == 1


def test_of_equally_good_knees_the_cheaper_one_is_taken() -> None:
    found = find_trade_off(STEADY, exact(1.0, 2 / 3 + 0.2, 1 / 3 + 0.2, 0.0))
    assert found.knee == 2


def test_order_of_the_points_does_not_matter() -> None:
    found = find_trade_off((0, 50, 100, 25), exact(0.2, 0.95, 1.0, 0.6))
    assert found.knee == 1


@pytest.mark.parametrize(
    "values",
    [(1.0, 2 / 3, 1 / 3, 0.0), (1.0, 0.4, 0.1, 0.0)],
    ids=["straight", "sagging"],
)
def test_curve_without_a_bend_has_no_knee(values: tuple[float, ...]) -> None:
    found = find_trade_off(STEADY, exact(*values))
    assert found.knee is None
    assert found.reason.startswith("no point lies above the straight line")


def test_flat_curve_has_its_knee_at_the_cheapest_point() -> None:
    found = find_trade_off(STEADY, exact(0.9, 0.9, 0.9, 0.9))
    assert found.knee == 3
    assert found.reason == "even the cheapest point cannot be told from the best one"
    assert found.non_dominated == (False, False, False, True)


def test_curve_is_flat_if_the_cheapest_interval_reaches_the_best_point() -> None:
    qualities = [*exact(0.90, 0.89, 0.91), Quality(0.901, 0.892, 0.91)]
    assert find_trade_off(STEADY, qualities).knee == 3
    qualities[3] = Quality(0.901, 0.892, 0.909)
    assert find_trade_off(STEADY, qualities).knee == 2


def test_an_interval_that_is_wide_for_want_of_images_does_not_make_the_curve_flat() -> None:
    qualities = [*exact(0.90, 0.89, 0.91), Quality(0.86, 0.80, 0.92)]
    found = find_trade_off(STEADY, qualities)
    assert found.knee == 2
    assert found.reason.endswith("too few to tell even the cheapest point from the best one")


def test_equal_points_on_few_images_have_no_knee() -> None:
    found = find_trade_off(STEADY, [Quality(0.9, 0.8, 1.0)] * 4)
    assert found.knee is None
    assert "too few" in found.reason


@pytest.mark.parametrize(("number", "text"), [(2, "there are 2"), (1, "there are 1")])
def test_knee_needs_three_points(number: int, text: str) -> None:
    found = find_trade_off(STEADY[:number], exact(*[0.9, 0.5][:number]))
    assert found.knee is None
    assert found.reason == f"a knee needs 3 points, {text}"


def test_points_of_the_same_cost_have_no_knee() -> None:
    found = find_trade_off((5, 5, 5), [*exact(0.9), *exact(0.5, 0.1)])
    # The best of the cheapest is the best of all.
    assert found.knee == 0


def test_dominated_points_are_those_that_another_beats() -> None:
    costs = (100.0, 80.0, 60.0, 60.0, 40.0)
    values = (0.98, 0.99, 0.99, 0.97, 0.5)
    assert non_dominated(costs, values) == (False, False, True, False, True)


def test_equal_points_do_not_beat_each_other() -> None:
    assert non_dominated((5.0, 5.0), (0.9, 0.9)) == (True, True)


points = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    min_size=3, max_size=9, unique_by=lambda point: point[0],
)  # fmt: skip


@given(points)
def test_knee_is_the_unbeaten_point_farthest_from_the_chord(
    pairs: list[tuple[int, int]],
) -> None:
    found = find_trade_off([c for c, _ in pairs], exact(*(float(q) for _, q in pairs)))
    first, last = min(pairs), max(pairs)
    distances = {
        pair: _distance_above(pair, first, last, pairs)
        for pair in pairs
        if not any(cost < pair[0] and quality >= pair[1] for cost, quality in pairs)
    }
    if found.knee is None:
        assert all(distance <= 1e-6 for distance in distances.values())
        return
    knee = pairs[found.knee]
    if found.reason.startswith("farthest"):
        assert distances[knee] >= max(distances.values()) - 1e-6
    else:
        assert knee == first
        assert first[1] == max(quality for _, quality in pairs)


def _distance_above(
    pair: tuple[int, int],
    first: tuple[int, int],
    last: tuple[int, int],
    pairs: list[tuple[int, int]],
) -> float:
    """Signed distance at right angles to the chord, in the unit square, by the cross product."""
    width = last[0] - first[0]
    height = max(q for _, q in pairs) - min(q for _, q in pairs) or 1
    across, up = (last[0] - first[0]) / width, (last[1] - first[1]) / height
    x, y = (pair[0] - first[0]) / width, (pair[1] - first[1]) / height
    return (across * y - up * x) / math.hypot(across, up)
