from __future__ import annotations

import math

import pytest
import torch

from fairdeploy.recovery.imitation import answer_distance, answer_error, compared, value_error


def test_value_error_is_a_share_of_the_variance_over_images() -> None:
    wanted = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    value = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    # Mean squared error 1/4; deviations of the wanted values -1, 1, 0, 0, so variance 2/4.
    assert float(value_error(value, wanted)) == pytest.approx(0.5)


def test_answer_error_of_scores_is_the_divergence_of_their_probabilities() -> None:
    wanted = torch.log(torch.tensor([[0.5, 0.5]]))
    answer = torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(answer_error(answer, wanted)) == pytest.approx(expected, rel=1e-5)


def test_answers_that_are_no_scores_are_compared_by_their_squares() -> None:
    maps = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert compared(maps, maps).agreement is None
    assert compared(maps + 1, maps).error > 0.5


def test_agreement_is_the_share_of_equal_classes() -> None:
    wanted = torch.eye(4)
    answer = torch.eye(4)[[0, 1, 2, 2]]
    assert compared(answer, wanted).agreement == 0.75


def test_answer_distance_is_half_the_difference_of_the_probabilities() -> None:
    wanted = torch.log(torch.tensor([[0.5, 0.3, 0.2], [1.0, 1e-9, 1e-9]]))
    answer = torch.log(torch.tensor([[0.4, 0.4, 0.2], [1e-9, 1.0, 1e-9]]))
    # The first image: (0.1 + 0.1 + 0) / 2; the second is as wrong as can be.
    assert float(answer_distance(answer, wanted)) == pytest.approx((0.1 + 1.0) / 2, abs=1e-6)
    assert compared(answer, wanted).error == pytest.approx(0.55, abs=1e-6)
