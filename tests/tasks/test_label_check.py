"""Accuracy is only claimed where labels and the original's answers belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.inputs.answers import norm_distance, require_judged
from fairdeploy.records import DataSplits, ImageSet, NotJudged, Preprocessing
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.classification.label_check import binomial_cdf, check_original
from tests.inputs.tiny_inputs import TINY


def answers(labels: Tensor, accuracy: float, confidence: float, classes: int, seed: int) -> Tensor:
    """Scores that are right for this share of the labels, and this sure of it."""
    random = np.random.default_rng(seed)
    wrong = (labels + torch.from_numpy(random.integers(1, classes, len(labels)))) % classes
    is_right = torch.from_numpy(random.random(len(labels)) < accuracy)
    chosen = torch.where(is_right, labels, wrong)
    rest = (1 - confidence) / (classes - 1)
    shares = torch.full((len(labels), classes), rest)
    shares[torch.arange(len(labels)), chosen] = confidence
    return shares.log()


def checked(
    accuracy: float, confidence: float, classes: int, count: int, *, seed: int = 0,
    relabel: Callable[[Tensor], Tensor] = lambda labels: labels,
    names: tuple[str, ...] | None = None,
) -> DataSplits:  # fmt: skip
    """The data of a network whose scores are stored in the images themselves."""
    labels = torch.arange(count) * classes // count
    scores = answers(labels, accuracy, confidence, classes, seed)
    images = ImageSet(scores[:, :, None, None], relabel(labels), "given")
    original = Original(lambda x: x.images[:, :, 0, 0], lambda _: None, None, TINY, classes)
    data = DataSplits(images, images, names, "images", "")
    return check_original(data, original, names_are_given=names is None)


@pytest.mark.parametrize(
    ("accuracy", "confidence", "classes", "count"),
    [
        (0.97, 0.99, 10, 500),
        (0.40, 0.45, 10, 500),  # hard images
        (0.45, 0.75, 100, 500),  # overfitted
        (0.75, 0.97, 10, 300),  # overfitted too
        (0.65, 0.70, 2, 500),
        (0.15, 0.20, 200, 1000),
        (0.60, 0.60, 5, 20),  # few images
        (0.70, 0.90, 2, 16),
    ],
)
def test_honest_networks_are_judged(
    accuracy: float, confidence: float, classes: int, count: int
) -> None:
    """Of twenty draws all."""
    found = [checked(accuracy, confidence, classes, count, seed=seed) for seed in range(20)]
    assert [data.not_judged for data in found] == [None] * 20


@pytest.mark.parametrize("confidence", [0.15, 0.9])
@pytest.mark.parametrize(("classes", "count"), [(10, 300), (2, 200), (100, 500)])
def test_chance_is_told_whatever_the_confidence(
    confidence: float, classes: int, count: int
) -> None:
    confidence = max(confidence, 1.2 / classes)
    found = [
        checked(1 / classes, confidence, classes, count, seed=seed).not_judged for seed in range(20)
    ]
    assert sum(one is not None and "no more than chance" in one.reason for one in found) >= 18


def test_a_network_that_is_sure_and_wrong_is_not_judged() -> None:
    data = checked(0.2, 0.9, 10, 400)
    assert data.not_judged is not None
    assert "right, though it is 90% sure of its answers" in data.not_judged.reason
    assert data.not_judged.remedy.startswith("check that the labels, their order and the weights")
    assert data.test is not None
    assert data.test.labels is None
    assert data.calibration.labels is None
    assert data.warnings[-1].startswith("ACCURACY NOT JUDGED: the original has ")


def test_labels_in_another_order_are_found_and_named() -> None:
    names = tuple("abcdefgh")
    order = torch.tensor([3, 0, 5, 1, 7, 2, 6, 4])
    data = checked(0.95, 0.97, 8, 400, relabel=lambda x: order[x], names=names)
    assert data.not_judged is not None
    # Label 3 is what the network calls 0.
    expected = ",".join(names[int(place)] for place in order)
    assert f"add --class-names {expected}: 9" in data.not_judged.remedy


def test_a_few_wrong_labels_are_no_other_order() -> None:
    def swapped(labels: Tensor) -> Tensor:
        return torch.where(torch.arange(len(labels)) % 5 == 0, 0, labels)

    assert checked(0.97, 0.98, 8, 400, relabel=swapped).not_judged is None


@pytest.mark.parametrize("accuracy", [0.02, 0.1, 0.25])
def test_outputs_that_are_not_the_classes_are_told(accuracy: float) -> None:
    """An embedding: ten folders, 64 numbers."""
    data = checked(accuracy, 0.1, 64, 300, names=tuple("0123456789"))
    assert data.not_judged is not None
    assert "64 outputs and the data 10 classes" in data.not_judged.reason
    assert "where the answers are no classes say --task imitation" in data.not_judged.remedy


def test_a_part_of_the_classes_in_their_places_is_judged() -> None:
    """More outputs than folders, but the first ones are these."""
    assert checked(0.8, 0.85, 12, 300, names=tuple("0123456789")).not_judged is None


def test_noise_and_unlabelled_images_are_left_alone() -> None:
    images = ImageSet(torch.zeros(40, 3, 8, 8), None, "none")
    data = DataSplits(images, None, None, "x", "")
    original = Original(lambda x: torch.zeros(len(x), 5), lambda _: None, None, TINY, 5)
    assert check_original(data, original, names_are_given=True) is data


def test_gates_and_learning_by_labels_are_refused_before_the_work() -> None:
    images = ImageSet(torch.zeros(4, 3, 8, 8), None, "none")
    data = DataSplits(images, None, None, "x", "")
    require_judged(data, max_drop=0.01, learns_labels=True)
    wrong = replace(data, not_judged=NotJudged("it is at chance", "add --mean 0", 0.1, 64))
    require_judged(wrong, max_drop=None, learns_labels=False)
    with pytest.raises(DataError, match=r"--max-drop cannot go .* chance; add --mean 0; or give a"):
        require_judged(wrong, max_drop=0.01, learns_labels=False)
    with pytest.raises(DataError, match=r"--finetune cannot go .*or learn without labels"):
        require_judged(wrong, max_drop=None, learns_labels=True)


def test_binomial_shares_are_those_of_a_table() -> None:
    """By hand: two tosses, and ten of which at most one is a tenth's hit."""
    assert binomial_cdf(1, 2, 0.5) == pytest.approx(0.75)
    assert binomial_cdf(1, 10, 0.1) == pytest.approx(0.9**10 + 10 * 0.1 * 0.9**9)
    assert binomial_cdf(-1, 4, 0.5) == 0
    assert binomial_cdf(4, 4, 0.5) == 1


def test_the_first_norm_tells_how_far_its_input_is_off_and_stays_as_it_was() -> None:
    network = nn.Sequential(nn.Identity(), nn.BatchNorm2d(2), nn.BatchNorm2d(2)).eval()
    assert isinstance(network[1], nn.BatchNorm2d)
    assert network[1].running_var is not None
    network[1].running_var.fill_(4.0)
    images = torch.full((3, 2, 4, 4), 6.0)
    assert norm_distance(network, lambda: network(images)) == pytest.approx(3.0, abs=1e-3)
    assert not network[1]._forward_pre_hooks
    assert norm_distance(nn.ReLU(), lambda: None) is None


@pytest.mark.parametrize(
    ("better", "is_warned"), [(0.95, True), (0.8, False)], ids=["surely", "by chance"]
)
def test_images_that_another_usual_normalisation_suits_surely_are_warned_of(
    better: float, is_warned: bool
) -> None:
    """The accuracy alone is honest enough; what reaches the first norm is not."""
    labels = torch.arange(300) * 10 // 300
    usual = replace(TINY, mean=(0.0,) * 3, std=(1.0,) * 3)

    def prepared(preprocessing: Preprocessing, count: int = 64) -> ImageSet:
        accuracy = better if preprocessing.mean[0] == 0.5 else 0.74
        chosen = labels[torch.linspace(0, len(labels) - 1, count).round().long()]
        scores = answers(chosen, accuracy, 0.85, 10, 0)
        return ImageSet(scores[:, :, None, None], chosen, "given")

    original = Original(lambda x: x.images[:, :, 0, 0], lambda _: 0.15, prepared, usual, 10)
    images = prepared(usual, 300)
    data = check_original(
        DataSplits(images, images, None, "images", ""), original, names_are_given=True
    )
    assert data.not_judged is None
    found = [text for text in data.warnings if "--mean 0.5 --std 0.5" in text]
    assert bool(found) == is_warned
