"""The measures of the tasks against scikit-learn's, and what their intervals promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, r2_score
from torch import Tensor, nn

from fairdeploy.tasks.classification import Classification
from fairdeploy.tasks.classification.binary import BinaryClassification
from fairdeploy.tasks.multilabel import Multilabel
from fairdeploy.tasks.regression import Regression, scales_of
from fairdeploy.tasks.resampled import Resampled
from fairdeploy.tasks.segmentation import Segmentation


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def segmented(count: int = 40, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores that are mostly right, and masks with void pixels."""
    masks = torch.randint(classes, (count, 6, 5), generator=drawn(seed))
    scores = torch.randn(count, classes, 6, 5, generator=drawn(seed + 1))
    scores.scatter_add_(1, masks[:, None], torch.full((count, 1, 6, 5), 1.5))
    masks[:, 0] = 255
    return scores, masks


def test_mean_intersection_over_union_is_scikit_learns() -> None:
    scores, masks = segmented()
    task = Segmentation(4)
    judged = masks != 255
    wanted = jaccard_score(masks[judged], scores.argmax(1)[judged], average="macro")
    assert task.quality(task.kept(scores), masks).value == pytest.approx(wanted)
    right = (scores.argmax(1) == masks)[:, 1:].double().flatten(1).mean(1)
    assert torch.allclose(task.marks(scores, masks), right)


def test_one_channel_is_two_classes_by_score_or_probability() -> None:
    masks = torch.randint(2, (9, 4, 4), generator=drawn(0))
    score = torch.randn(9, 1, 4, 4, generator=drawn(1)) + 2 * masks[:, None] - 1
    wanted = jaccard_score(masks.flatten(), (score[:, 0] > 0).long().flatten(), average="macro")
    for task, answer in ((Segmentation(2), score), (Segmentation(2, True), score.sigmoid())):
        assert task.quality(task.kept(answer), masks).value == pytest.approx(wanted)
        found = task.loss(answer, masks)
        entropy = nn.functional.binary_cross_entropy_with_logits(score[:, 0], masks.float())
        assert float(found) == pytest.approx(9 * float(entropy), rel=1e-4)


def test_masks_of_another_size_are_brought_to_that_of_the_answer() -> None:
    scores, masks = segmented()
    task, large = Segmentation(4), masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    wanted = task.quality(task.kept(scores), masks)
    assert task.quality(task.kept(scores), large) == wanted
    assert task.quality(task.kept(scores), masks[:, None]) == wanted  # masks of one channel
    assert torch.equal(task.loss(scores, masks[:, None]), task.loss(scores, masks))


def test_moved_images_take_their_masks_along() -> None:
    masks = torch.randint(3, (8, 16, 16), generator=drawn(0))
    images = masks[:, None].float().repeat(1, 3, 1, 1)
    moved, targets = Segmentation(3).augmented(images, masks, drawn(1))
    assert targets is not None
    assert torch.equal(moved[:, 0].long(), targets)
    assert not torch.equal(targets, masks)


def test_mean_average_precision_is_scikit_learns() -> None:
    wanted = torch.randint(2, (60, 5), generator=drawn(0))
    wanted[:, 4] = 1  # says nothing
    scores = torch.randn(60, 5, generator=drawn(1)) + wanted
    expected = np.mean([average_precision_score(wanted[:, k], scores[:, k]) for k in range(4)])
    for task, answer in ((Multilabel(), scores), (Multilabel(True), scores.double().sigmoid())):
        found = task.quality(task.kept(answer), wanted)
        assert found.value == pytest.approx(expected, abs=1e-6)
    one = Multilabel().quality(Multilabel().kept(scores[:, 0]), wanted[:, 0])
    assert one.value == pytest.approx(average_precision_score(wanted[:, 0], scores[:, 0]))


def test_explained_variance_is_scikit_learns_each_column_on_its_own_scale() -> None:
    wanted = torch.randn(50, 2, generator=drawn(0)) * torch.tensor([1.0, 1000.0]) + 5
    answer = wanted + torch.randn(50, 2, generator=drawn(1)) * torch.tensor([0.3, 500.0])
    task = Regression(scales_of(wanted))
    assert task.quality(task.kept(answer), wanted).value == pytest.approx(r2_score(wanted, answer))
    assert float(task.marks(answer, wanted).mean()) == pytest.approx(r2_score(wanted, answer))
    assert task.baseline(wanted) == 0
    mean = wanted.mean(0).expand(50, 2)
    assert task.quality(task.kept(mean), wanted).value == pytest.approx(0, abs=1e-9)


TASKS: dict[str, Resampled] = {
    "segmentation": Segmentation(3),
    "multilabel": Multilabel(),
    "regression": Regression((1.0,)),
}


def made(name: str, count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Answers with this much noise, and targets."""
    if name == "segmentation":
        masks = torch.randint(3, (count, 4, 4), generator=drawn(seed))
        scores = nn.functional.one_hot(masks, 3).movedim(3, 1).float()
        return scores + noise * torch.randn(scores.shape, generator=drawn(seed + 1)), masks
    if name == "multilabel":
        flags = torch.randint(2, (count, 3), generator=drawn(seed))
        return flags + noise * torch.randn(count, 3, generator=drawn(seed + 1)), flags
    numbers = torch.randn(count, generator=drawn(seed))
    return numbers + noise * torch.randn(count, generator=drawn(seed + 1)), numbers


@pytest.mark.parametrize("name", TASKS)
def test_interval_holds_what_many_images_show(name: str) -> None:
    """The 95 % interval of 150 images, in at least 17 of 20 draws."""
    task = TASKS[name]
    answers, targets = made(name, 20_000, 0.6, 1_000)
    truth = task.quality(task.kept(answers[:6000]), targets[:6000]).value
    hits = 0
    for seed in range(20):
        answers, targets = made(name, 150, 0.6, seed)
        found = task.quality(task.kept(answers), targets)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert hits >= 17


@pytest.mark.parametrize("name", TASKS)
def test_difference_on_the_same_images_is_told_more_sharply(name: str) -> None:
    task = TASKS[name]
    answers, targets = made(name, 300, 0.6, 0)
    worse = answers + 0.3 * torch.randn(answers.shape, generator=drawn(5))
    before, after = task.kept(answers), task.kept(worse)
    found = task.difference(before, after, targets)
    whole = [task.quality(each, targets) for each in (before, after)]
    assert found.value == pytest.approx(whole[1].value - whole[0].value)
    assert found.high < 0
    assert found.high - found.low < whole[0].high - whole[0].low + whole[1].high - whole[1].low
    assert found.num_lost > found.num_gained
    same = task.difference(before, before, targets)
    assert (same.value, same.low, same.high, same.num_changed) == (0, 0, 0, 0)
    needed = found.images_needed(0.05)
    assert needed is not None
    assert needed == pytest.approx(300 * ((found.high - found.low) / 0.05) ** 2, rel=0.15)


@pytest.mark.parametrize("as_column", [True, False])
def test_one_number_for_two_classes_counts_like_two_scores(as_column: bool) -> None:
    labels = torch.randint(2, (80,), generator=drawn(0))
    score = torch.randn(80, generator=drawn(1)) + 2 * labels - 1
    two = torch.stack([torch.zeros(80), score], 1)
    wanted = Classification()
    for task, answer in (
        (BinaryClassification(), score),
        (BinaryClassification(are_probabilities=True), score.double().sigmoid()),
    ):
        given = answer[:, None] if as_column else answer
        assert task.quality(task.kept(given), labels) == wanted.quality(wanted.kept(two), labels)
        assert float(task.loss(given, labels)) == pytest.approx(
            float(wanted.loss(two, labels)), 1e-5
        )
        assert task.agreement(given, given) == 1
        other = given.flip(0)
        assert float(task.divergence(given, other)) == pytest.approx(
            float(wanted.divergence(two, two.flip(0))), 1e-4
        )


def test_a_few_other_pixels_are_few_whatever_images_they_lie_in() -> None:
    scores, _ = segmented()
    other = scores.clone()
    other[:, :, 2, 2] = other[:, :, 2, 2].roll(1, 1)
    assert Segmentation(4).agreement(scores, scores) == 1
    assert Segmentation(4).agreement(other, scores) == pytest.approx(29 / 30)
    assert Segmentation(4).agreement(scores[:, :3], scores) == 0
    flags = torch.tensor([[1.0, -1.0, 2.0, -2.0]] * 5)
    assert Multilabel().agreement(-flags, flags) == 0
    assert Multilabel().agreement(flags * torch.tensor([1, 1, 1, -1]), flags) == 0.75
