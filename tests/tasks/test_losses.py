"""What training and scoring lower, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fairdeploy.tasks.base import value_error
from fairdeploy.tasks.classification import Classification
from fairdeploy.tasks.imitation import Imitation


def test_value_error_is_a_share_of_the_variance_over_images() -> None:
    wanted = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    value = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    # Mean squared error 1/4; deviations of the wanted values -1, 1, 0, 0, so variance 2/4.
    assert float(value_error(value, wanted)) == pytest.approx(0.5)


def test_imitation_of_scores_lowers_the_divergence_of_their_probabilities() -> None:
    wanted = torch.log(torch.tensor([[0.5, 0.5]]))
    answer = torch.log(torch.tensor([[0.25, 0.75]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    lowered = Classification().imitation_loss(answer, wanted)
    assert float(lowered) == pytest.approx(expected, rel=1e-5)


def test_imitation_of_other_outputs_lowers_their_squared_error() -> None:
    maps = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    task = Imitation(maps.shape)
    assert float(task.imitation_loss(maps, maps)) == 0.0
    assert float(task.imitation_loss(maps + 1, maps)) > 0.5


def test_loss_of_scores_is_their_cross_entropy_summed_over_the_images() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
    found = Classification().loss(scores, torch.tensor([0, 1]))
    assert float(found) == pytest.approx(-math.log(0.5) - math.log(0.8), rel=1e-5)


def test_loss_without_targets_is_the_number_itself_or_the_mean_size() -> None:
    assert float(Imitation((2, 1)).loss(torch.tensor([[2.0], [3.0]]), None)) == 5.0
    sequence = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]])
    assert float(Imitation(sequence.shape).loss(sequence, None)) == 10 / 4
