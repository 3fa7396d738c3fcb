from __future__ import annotations

import math

import pytest
import torch
from fairdeploy.recovery.training.imitation import answer_error, value_error


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
    assert float(answer_error(maps, maps)) == 0.0
    assert float(answer_error(maps + 1, maps)) > 0.5
