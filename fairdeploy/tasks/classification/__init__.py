"""Classification: one score for each of several classes, of which the largest is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError
from fairdeploy.records import AccuracyEstimate, ClassChange, DataSplits, PairedDifference
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.tasks.base import Original, Task
from fairdeploy.tasks.classification.label_check import check_labels_fit, check_original

_MATRIX = 2
MIN_CLASSES = 10
"""From so many scores on they are taken for classes where nothing tells."""
_FEWEST_VARIED = 3
_MOST_OF_ONE = 0.9
_Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


@dataclass(frozen=True)
class Classification(Task):
    """Answers are scores [N, classes], targets the right classes, int64 [N]."""

    words: ClassVar[TaskWords] = TaskWords(
        "classification", "top-1", "%", is_higher_better=True, agreement="same top-1",
        agreement_means="Top-1 is the share of images on which file and torch choose the same "
        "class.",
    )  # fmt: skip
    has_targets: ClassVar[bool] = True
    is_known: bool | None = None
    """Whether the largest score is the answer; None: nothing tells, so it is if there are many."""

    # ---- targets and images ----------------------------------------------------------------------

    def informed(self, data: DataSplits) -> Classification:
        """Given labels tell that the scores are those of classes, or that they are not."""
        if data.not_judged is not None:
            return replace(self, is_known=False)
        return replace(self, is_known=True if data.calibration.label_source == "given" else None)

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data as it is, or without its labels and with the reason in ``not_judged``.

        Raises:
            DataError: A label or a class name has no output of its own.
        """
        check_labels_fit(data, original.num_outputs)
        return check_original(data, original, names_are_given=names_are_given)

    def with_own_targets(self, data: DataSplits, original: Original) -> DataSplits:
        """Unlabelled calibration images get the class that the original itself gives."""
        calibration = data.calibration
        if calibration.labels is not None:
            return data
        scores = original.answers(calibration)
        labels, warnings = scores.argmax(dim=1), data.warnings
        if bool((labels == labels[0]).all()):
            # Which class scores highest *for this image* still tells the images apart.
            labels = (scores - scores.mean(dim=0)).argmax(dim=1)
            warnings += ("the same output is highest for all images; relative scores are used",)
        labelled = replace(calibration, labels=labels, label_source="predicted")
        return replace(data, calibration=labelled, warnings=warnings)

    # ---- learning --------------------------------------------------------------------------------

    def own_targets(self, answer: Tensor) -> Tensor:
        """The class with the largest score, int64 [N]."""
        return answer.argmax(1)

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Cross-entropy."""
        assert targets is not None
        _check_labels(targets, answer.shape[1])
        return functional.cross_entropy(answer, targets, reduction="sum")

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """The classes."""
        assert targets is not None
        return targets

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of the classes' probabilities.

        Args:
            answer: Scores.
            wanted: The original's.
            temperature: Softens both; the result is scaled with its square (Hinton et al. 2015).
        """
        ours, theirs = ((scores / temperature).log_softmax(1) for scores in (answer, wanted))
        divergence = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
        return divergence * temperature**2

    def imitation_loss(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """The divergence of an image."""
        return self.divergence(answer, wanted, temperature) / len(answer)

    # ---- judging ---------------------------------------------------------------------------------

    def marks(self, answer: Tensor, targets: Tensor) -> Tensor:
        """1 for the right class, else 0."""
        return (answer.argmax(1) == targets).double()

    def are_telling(self, own_targets: Tensor, num_values: int) -> bool:
        """Whether scores look like those of classes: many, or none is nearly always the largest."""
        commonest = float(own_targets.bincount().max()) / len(own_targets)
        is_varied = num_values >= _FEWEST_VARIED and commonest <= _MOST_OF_ONE
        return num_values >= MIN_CLASSES or is_varied

    def kept(self, answer: Tensor) -> Tensor:
        """The class with the largest score, int64 [N]."""
        return answer.argmax(1)

    def quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        """Share of right answers with its 95 % Wilson score interval."""
        if answers.shape != targets.shape or len(targets) == 0:
            raise DataError(
                f"accuracy needs one answer for each label, got {list(answers.shape)} and "
                f"{list(targets.shape)}"
            )
        return wilson_interval(int((answers == targets).sum()), len(targets))

    def difference(self, before: Tensor, after: Tensor, targets: Tensor) -> PairedDifference:
        """The accuracy of ``after`` minus that of ``before``, with its 95 % interval.

        Raises:
            DataError: There are no images.
        """
        if len(targets) == 0:
            raise DataError("accuracies cannot be compared without images; give labelled images")
        was_right, is_right = before == targets, after == targets
        counts = (was_right & ~is_right, ~was_right & is_right, before != after)
        return PairedDifference.of_counts(len(targets), *(int(found.sum()) for found in counts))

    def changes(self, before: Tensor, after: Tensor, targets: Tensor) -> tuple[ClassChange, ...]:
        """One row for each class that has images, in the order of their numbers."""
        rows = []
        for label in torch.unique(targets).tolist():
            mine = targets == label
            was_right, is_right = before[mine] == label, after[mine] == label
            counts = (mine, was_right, is_right, was_right & ~is_right, ~was_right & is_right)
            rows.append(ClassChange(label, *(int(found.sum()) for found in counts)))
        return tuple(rows)

    def agreeing(self, ours: Any, theirs: Any) -> NDArray[np.bool_] | None:
        """Images with the same class; None where the scores are not those of classes."""
        if not self.has_classes(theirs.shape):
            return None
        if ours.shape != theirs.shape:
            return np.zeros(len(theirs), dtype=np.bool_)
        same: NDArray[np.bool_] = np.asarray(ours).argmax(1) == np.asarray(theirs).argmax(1)
        return same

    def has_classes(self, shape: Sequence[int]) -> bool:
        """Whether the largest number of such an answer is a class, as far as one can tell."""
        if not are_scores(shape) or self.is_known is False:
            return False
        return self.is_known or shape[1] >= MIN_CLASSES


def are_scores(shape: Sequence[int]) -> bool:
    """Whether an output of this shape is one score for each of several classes and no more."""
    return len(shape) == _MATRIX and shape[1] > 1


def wilson_interval(num_right: int, num_images: int) -> AccuracyEstimate:
    """The 95 % score interval of a share (Wilson 1927); honest near 0 and 1 too."""
    share = num_right / num_images
    spread = _Z_95**2 / num_images
    centre = (share + spread / 2) / (1 + spread)
    half = (spread * share * (1 - share) + spread**2 / 4) ** 0.5 / (1 + spread)
    # Rounding may put the bound of 0 or of 1 right answers a hair inside.
    low, high = min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
    return AccuracyEstimate(share, low, high, num_images)


def _check_labels(labels: Tensor, num_outputs: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_outputs:
        raise DataError(
            f"label {low if low < 0 else high} does not fit the model's {num_outputs} outputs; "
            f"labels must be 0 to {num_outputs - 1}: use the data that the model was trained for"
        )
