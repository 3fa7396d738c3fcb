"""How much a network gives what the original gives, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fairdeploy.tasks.classification import Classification
from fairdeploy.tasks.imitation import Imitation, likeness

TASK = Imitation((2, 2))


def test_error_is_a_share_of_how_far_the_original_moves_about_its_mean() -> None:
    wanted = np.array([[9.0, 5.0], [11.0, 5.0]])  # about the mean: -1, 1 and 0, 0
    found = np.array([[9.5, 5.0], [11.0, 5.0]])  # off by 1/2 once
    (row,) = likeness([found], [wanted], ["output"], 0, TASK, 2).outputs
    assert row.error.value == pytest.approx((0.25 / 2) ** 0.5)
    assert row.cosine is not None
    assert row.cosine.value == pytest.approx(1.0)  # -1/2 beside -1, and 1 beside 1


def test_an_answer_that_is_the_same_for_every_image_has_an_error_of_one() -> None:
    wanted = np.random.default_rng(0).normal(5, 1, (40, 3, 4))
    constant = np.broadcast_to(wanted.mean(0), wanted.shape)
    alike = likeness([constant], [wanted], ["output"], 0, TASK, 40)
    assert alike.outputs[0].error.value == pytest.approx(1.0)
    assert alike.outputs[0].cosine is not None
    assert alike.outputs[0].cosine.value == pytest.approx(0.0)
    assert alike.agreement is None


def test_the_interval_of_the_error_holds_the_true_one_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        wanted = random.normal(0, 1, (100, 1))
        found = wanted + random.normal(0, 0.3, (100, 1))
        error = likeness([found], [wanted], ["output"], 0, TASK, 100).outputs[0].error
        hits += error.low <= 0.3 <= error.high
    assert 180 <= hits <= 198


def test_every_output_has_a_row_but_for_those_without_an_item_for_each_image() -> None:
    wanted = [np.ones((4, 1)), np.ones(3), np.arange(4), np.eye(4)]
    alike = likeness(wanted, wanted, ["a", "b", "c", "d"], 0, TASK, 4)
    assert [(row.output, row.cosine is None) for row in alike.outputs] == [
        ("a", True),
        ("d", False),
    ]


def test_agreement_has_wilsons_interval_where_the_main_output_is_scores() -> None:
    scores = np.eye(10)[np.arange(20) % 10]
    other = scores.copy()
    other[0] = scores[1]
    alike = likeness([other], [scores], ["output"], 0, Classification(), 20)
    assert alike.agreement is not None
    assert alike.agreement.value == 0.95
    assert alike.agreement.low == pytest.approx(0.7639, abs=1e-4)  # Wilson: 19 of 20
