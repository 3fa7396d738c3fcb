"""Quality, agreement and own targets of class scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits, ImageSet
from fairdeploy.tasks import task_of
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.classification import Classification, wilson_interval
from fairdeploy.tasks.classification.label_check import check_labels_fit
from fairdeploy.tasks.imitation import Imitation
from tests.inputs.tiny_inputs import TINY

TASK = Classification()


def original(offset: Tensor | float = 0.0) -> Original:
    """A network whose scores are the images themselves, plus something."""
    return Original(
        lambda x: x.images.flatten(1) + offset, lambda _: None, None, TINY, num_outputs=3
    )


def splits_of(images: Tensor, labels: Tensor | None = None) -> DataSplits:
    """Splits with these calibration images only."""
    source = "none" if labels is None else "given"
    return DataSplits(ImageSet(images, labels, source), None, None, "x", "0")  # type: ignore[arg-type]


def test_wilson_interval_has_the_textbook_values() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    middle, none = wilson_interval(81, 263), wilson_interval(0, 20)
    assert middle.low == pytest.approx(0.2553, abs=5e-5)
    assert middle.high == pytest.approx(0.3662, abs=5e-5)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.1611, abs=5e-5)
    assert wilson_interval(20, 20).high == 1.0


def test_accuracy_counts_right_answers() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    estimate = TASK.quality(TASK.kept(scores), torch.tensor([0, 1, 1, 1]))
    assert (estimate.value, estimate.num_images) == (0.75, 4)
    assert estimate.low < 0.75 < estimate.high


@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 2), (0, 2)])
def test_accuracy_refuses_outputs_that_are_not_one_row_per_label(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="accuracy needs one answer for each label"):
        TASK.quality(TASK.kept(torch.zeros(shape)), torch.zeros(4, dtype=torch.int64))


def test_own_targets_are_the_models_own_classes() -> None:
    images = torch.rand(130, 3, 1, 1)
    labelled = TASK.with_own_targets(splits_of(images), original())
    assert labelled.calibration.label_source == "predicted"
    assert labelled.calibration.labels is not None
    assert labelled.calibration.labels.tolist() == images.flatten(1).argmax(1).tolist()


def test_own_targets_differ_even_if_one_class_always_wins() -> None:
    offset = torch.tensor([100.0, 0.0, 0.0])
    labelled = TASK.with_own_targets(splits_of(torch.rand(40, 3, 1, 1)), original(offset))
    assert labelled.calibration.labels is not None
    assert set(labelled.calibration.labels.tolist()) == {0, 1, 2}
    assert "the same output is highest for all images" in labelled.warnings[0]


def test_given_labels_are_kept() -> None:
    splits = splits_of(torch.rand(2, 3, 1, 1), torch.tensor([1, 0]))
    assert TASK.with_own_targets(splits, original()) is splits


def test_labels_beyond_the_models_outputs_are_refused() -> None:
    splits = splits_of(torch.rand(3, 3, 1, 1), torch.tensor([0, 11, 1]))
    check_labels_fit(splits, 12)
    with pytest.raises(DataError, match=r"has the label 11, but the model has 10 outputs"):
        check_labels_fit(splits, 10)


def test_more_class_names_than_outputs_are_refused() -> None:
    splits = DataSplits(splits_of(torch.rand(2, 3, 1, 1)).calibration, None, ("ant", "bee", "cow"),
                        "x", "0")  # fmt: skip
    with pytest.raises(DataError, match="the data has 3 classes, the model 2 outputs"):
        check_labels_fit(splits, 2)


def test_agreement_speaks_of_classes_only_where_there_are_some() -> None:
    few, many = torch.rand(6, 4), torch.rand(6, 10)
    assert TASK.agreement(few, few) is None
    assert Classification(is_known=True).agreement(few, few) == 1.0
    assert TASK.agreement(many, many) == 1.0
    assert Classification(is_known=False).agreement(many, many) is None
    assert TASK.agreement(many[:, :3], many) == 0.0


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 7, 5), (2, 5, 8, 8), (2, 1, 8, 8)])
def test_only_one_row_of_scores_for_each_image_is_taken_for_classes(shape: tuple[int, ...]) -> None:
    task = task_of(shape)
    assert isinstance(task, Imitation)
    assert task.agreement(torch.rand(shape), torch.rand(shape)) is None
    assert isinstance(task_of((2, 5)), Classification)
