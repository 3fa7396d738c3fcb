"""Two networks' classes for the same images: which were lost, gained or merely changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.tasks.classification import Classification

TASK = Classification()


def answers(lost: int, gained: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images are of class 1; the original has all right but those that are gained."""
    labels = torch.ones(count, dtype=torch.int64)
    before, after = labels.clone(), labels.clone()
    after[:lost] = 0
    before[lost : lost + gained] = 0
    return before, after, labels


def test_interval_is_walds_with_half_an_image_in_each_cell() -> None:
    found = TASK.difference(*answers(10, 4, 100))
    assert (found.num_lost, found.num_gained, found.num_changed) == (10, 4, 14)
    assert found.value == pytest.approx(-0.06)
    # By hand: centre -6 / 102, variance (15 / 102 - (6 / 102) ** 2) / 102 = 0.037522 ** 2.
    assert found.low == pytest.approx(-0.058824 - 1.959964 * 0.037522, abs=1e-5)
    assert found.high == pytest.approx(-0.058824 + 1.959964 * 0.037522, abs=1e-5)


def test_equal_answers_leave_a_doubt_that_shrinks_with_the_number_of_images() -> None:
    few, many = (TASK.difference(*answers(0, 0, count)) for count in (100, 2000))
    assert few.value == many.value == 0
    assert few.low == pytest.approx(-1.959964 / 102, rel=1e-4)
    assert many.low == pytest.approx(-1.959964 / 2002, rel=1e-4)
    assert many.stays_within(0.001)
    assert not few.stays_within(0.001)


def test_interval_holds_the_true_difference_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    labels = torch.zeros(300, dtype=torch.int64)
    hits = 0
    for _ in range(1000):
        kind = random.choice(4, 300, p=[0.85, 0.06, 0.03, 0.06])
        before, after = (
            torch.from_numpy(is_right).long() for is_right in (kind >= 2, kind % 2 == 1)
        )
        found = TASK.difference(before, after, labels)
        hits += found.low <= 0.03 - 0.06 <= found.high
    assert 930 <= hits <= 975


def test_changed_counts_other_wrong_answers_too() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    found = TASK.difference(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1]), labels)
    assert (found.num_lost, found.num_gained, found.num_changed) == (0, 0, 1)


def test_classes_are_counted_apart() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2])
    rows = TASK.changes(torch.tensor([0, 0, 1, 2, 1]), torch.tensor([0, 1, 0, 2, 2]), labels)
    assert [(r.label, r.num_images, r.num_right_before, r.num_right_after) for r in rows] == [
        (0, 3, 2, 2), (2, 2, 1, 2),
    ]  # fmt: skip
    assert [(r.num_lost, r.num_gained) for r in rows] == [(1, 1), (0, 1)]


def test_no_images_are_refused() -> None:
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(DataError, match="cannot be compared without images"):
        TASK.difference(none, none, none)
