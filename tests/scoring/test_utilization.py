"""U-Scores against distances worked out by hand and by a slower way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairdeploy.scoring.utilization import MAX_CLASSES, class_members, layer_distances


def test_distance_of_scalar_outputs_is_the_shift_between_two_classes() -> None:
    first = torch.tensor([0.0, 3.0, 1.0])
    projections = torch.cat([first, first + 2.5]).reshape(6, 1, 1)
    members = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
    np.testing.assert_allclose(layer_distances(projections, members), [2.5])


def test_distance_is_the_largest_over_class_pairs() -> None:
    projections = torch.tensor([0.0, 0.0, 1.0, 1.0, -4.0, -4.0]).reshape(6, 1, 1)
    members = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 5])]
    np.testing.assert_allclose(layer_distances(projections, members), [5.0])


def test_distance_is_the_mean_over_projections() -> None:
    projections = torch.tensor([[0.0, 0.0], [1.0, 3.0]]).reshape(2, 1, 2)
    members = [torch.tensor([0]), torch.tensor([1])]
    np.testing.assert_allclose(layer_distances(projections, members), [2.0])


def slow_distance(projections: Tensor, members: list[Tensor]) -> list[float]:
    """One unit, direction and pair at a time, with ``torch.quantile``."""
    largest = []
    levels = torch.linspace(0, 1, max(len(member) for member in members))
    for unit in range(projections.shape[1]):
        pairs = []
        for a, first in enumerate(members):
            for second in members[:a]:
                gaps = [
                    (
                        torch.quantile(projections[first, unit, direction], levels)
                        - torch.quantile(projections[second, unit, direction], levels)
                    ).abs().mean()
                    for direction in range(projections.shape[2])
                ]  # fmt: skip
                pairs.append(float(torch.stack(gaps).mean()))
        largest.append(max(pairs))
    return largest


def test_classes_of_different_size_compare_by_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    projections = torch.randn(30, 5, 3, generator=generator)
    members = [torch.arange(0, 7), torch.arange(7, 18), torch.arange(18, 30)]
    np.testing.assert_allclose(
        layer_distances(projections, members), slow_distance(projections, members), rtol=1e-5
    )


def test_one_class_alone_has_no_distance() -> None:
    assert layer_distances(torch.ones(3, 2, 4), [torch.arange(3)]).tolist() == [0.0, 0.0]


def test_class_members_are_cut_at_the_most_frequent_classes() -> None:
    labels = torch.cat([torch.arange(MAX_CLASSES + 5), torch.arange(5, MAX_CLASSES + 5)])
    members = class_members(labels, torch.zeros(len(labels)))
    assert len(members) == MAX_CLASSES
    assert {int(labels[member[0]]) for member in members} == set(range(5, MAX_CLASSES + 5))


def test_class_members_leave_single_images_out_when_others_have_more() -> None:
    members = class_members(torch.tensor([0, 0, 1, 2, 2]), torch.zeros(5))
    assert [member.tolist() for member in members] == [[0, 1], [3, 4]]


def test_class_members_split_by_confidence_when_all_images_have_one_label() -> None:
    members = class_members(torch.zeros(4, dtype=torch.int64), torch.tensor([3.0, 0.0, 2.0, 1.0]))
    assert [sorted(member.tolist()) for member in members] == [[1, 3], [0, 2]]
