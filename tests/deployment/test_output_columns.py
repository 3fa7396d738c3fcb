"""How far columns are off, with numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.deployment.output_columns import Array, compare_columns, has_wide_scales

RANDOM = np.random.default_rng(0)


def detector(count: int = 40, places: int = 50) -> Array:
    """[N, 4 coordinates of hundreds of pixels and 3 class scores below 1, places]."""
    boxes = 640 * RANDOM.random((count, 4, places))
    return np.concatenate([boxes, RANDOM.random((count, 3, places))], 1).astype(np.float32)


def test_class_scores_that_became_zero_are_seen_beside_coordinates() -> None:
    expected = detector()
    got = expected.copy()
    got[:, 4:] = 0
    found = compare_columns([expected], [got])
    assert np.abs(got - expected).max() / np.abs(expected).max() < 0.002
    assert found.error > 1.5
    assert found.problems == (
        "3 of 7 columns, as column 4, became constant (1 distinct values instead of 2000)",
    )


@pytest.mark.parametrize("turned", [False, True])
def test_the_shorter_axis_of_a_list_of_places_holds_the_columns(turned: bool) -> None:
    expected = detector()
    got = expected.copy()
    got[:, 5] *= 0.9
    if turned:
        expected, got = expected.transpose(0, 2, 1), got.transpose(0, 2, 1)
    assert compare_columns([expected], [got]).column == "column 5"


def test_an_error_is_a_share_of_the_columns_own_spread() -> None:
    count = 400
    steer, speed = 0.077 * RANDOM.standard_normal(count), 20 * RANDOM.standard_normal(count)
    expected = np.stack([steer, speed], 1)
    got = expected + np.stack([np.full(count, 0.065), np.zeros(count)], 1)
    found = compare_columns([expected], [got])
    assert found.column == "column 0"
    assert found.error == pytest.approx(0.065 / steer.std())


def test_a_range_of_which_half_is_lost_is_told_though_most_values_are_near() -> None:
    expected = 0.01 * RANDOM.random((500, 2))
    expected[0, 0] = 1.0
    found = compare_columns([expected], [expected.clip(0, 0.4)])
    assert found.problems[0].startswith("column 0 lost half of the range")


def test_what_hardly_moves_beside_its_like_matters_as_little() -> None:
    spreads = np.array([5.0, 0.6, 0.08])
    scores = RANDOM.standard_normal((4000, 3)) * spreads
    got = scores * [1, 1, 0]
    found = compare_columns([scores], [got])
    assert found.problems == ()
    assert found.error == pytest.approx(0.08 / (0.02 * 5), rel=0.1)
    # without the one between them it is of another kind
    assert compare_columns([scores[:, ::2]], [got[:, ::2]]).error == pytest.approx(1, rel=0.1)


def test_what_is_rounding_beside_the_rest_is_no_fault() -> None:
    scores = np.stack([RANDOM.random(200), 1e-9 * RANDOM.random(200)], 1)
    found = compare_columns([scores], [scores * [1, 0]])
    assert found.problems == ()
    assert found.error < 0.01


def test_every_output_is_compared_and_named() -> None:
    boxes, masks = detector(), RANDOM.random((4, 2, 8, 8))
    found = compare_columns([boxes, masks], [boxes, masks * 0], ("boxes", "masks"))
    assert found.column.endswith("of output 'masks'")
    assert "of output 'masks'" in found.problems[0]


def test_constants_small_batches_and_whole_numbers_are_no_fault() -> None:
    fixed = np.tile([1.0, 5.0, 0.0], (30, 1))
    for expected in (fixed, fixed[:1], RANDOM.random((1, 7)), np.arange(5), np.zeros((0, 3))):
        assert compare_columns([expected], [expected]).error == 0
        assert compare_columns([expected], [expected]).problems == ()
    assert compare_columns([fixed], [fixed + 1e-4]).error < 1e-3


@pytest.mark.parametrize(
    "got", [np.zeros((3, 2)), np.full((3, 4), np.nan), np.full((3, 4), np.inf)]
)
def test_what_cannot_be_compared_is_infinitely_far(got: Array) -> None:
    assert compare_columns([np.ones((3, 4))], [got]).error == float("inf")


def test_values_of_like_scale_are_not_wide_and_joined_ones_are() -> None:
    assert has_wide_scales(detector())
    assert has_wide_scales(np.stack([RANDOM.random(50), 100 * RANDOM.random(50)], 1))
    assert has_wide_scales(np.stack([RANDOM.random(50) + 100, 100 * RANDOM.random(50)], 1))
    assert not has_wide_scales(RANDOM.standard_normal((50, 10)) * np.linspace(1, 3, 10))
    assert not has_wide_scales(RANDOM.random((50, 1)))
    assert not has_wide_scales(np.ones((50, 4)))
