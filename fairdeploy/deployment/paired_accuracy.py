"""Two networks' answers to the same images: which were lost, gained or merely changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import DataError
from fairdeploy.records import ClassChange, PairedDifference

Classes = NDArray[np.int64]


def paired_difference(before: Classes, after: Classes, labels: Classes) -> PairedDifference:
    """Accuracy of ``after`` minus that of ``before``, with its 95 % interval.

    Args:
        before: The original's class for each image, int64 [N].
        after: The other network's.
        labels: The right ones.

    Raises:
        DataError: There are no images.
    """
    count = len(labels)
    if count == 0:
        raise DataError("accuracies cannot be compared without images; give labelled images")
    was_right, is_right = before == labels, after == labels
    lost, gained = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum())
    return PairedDifference.of_counts(count, lost, gained, int((before != after).sum()))


def class_changes(before: Classes, after: Classes, labels: Classes) -> tuple[ClassChange, ...]:
    """One row for each class that has images, in the order of their numbers."""
    rows = []
    for label in np.unique(labels):
        mine = labels == label
        was_right, is_right = before[mine] == label, after[mine] == label
        rows.append(
            ClassChange(
                label=int(label),
                num_images=int(mine.sum()),
                num_right_before=int(was_right.sum()),
                num_right_after=int(is_right.sum()),
                num_lost=int((was_right & ~is_right).sum()),
                num_gained=int((~was_right & is_right).sum()),
            )
        )
    return tuple(rows)
