"""What a network's answers are for: how they are learned from, judged and compared.

Everything else works for any task and asks the one that the run hands down with the network's
outputs. A new task is a class derived from ``base.Task`` in a file of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairdeploy.errors import DataError, UsageError
from fairdeploy.records.task_names import TaskName
from fairdeploy.tasks.base import Task
from fairdeploy.tasks.classification import Classification, are_scores
from fairdeploy.tasks.classification.binary import BinaryClassification
from fairdeploy.tasks.embedding import Embedding
from fairdeploy.tasks.imitation import Imitation
from fairdeploy.tasks.multilabel import Multilabel
from fairdeploy.tasks.regression import Regression, scales_of
from fairdeploy.tasks.resampled import Resampled
from fairdeploy.tasks.restoration import scaled_restoration
from fairdeploy.tasks.segmentation import Segmentation
from fairdeploy.tasks.sequence import read_sequences

__all__ = ["Resampled", "Task", "task_for", "task_of"]

_MATRIX, _MAP_DIMS = 2, 4
_MASK_VALUES = 3
"""Of a mask with one channel: no, yes, and what is not judged."""
_TAKES = {
    "classification": "scores [N, classes], or one for two classes, and class numbers [N]",
    "multilabel": "scores [N, labels] and flags 0 or 1 of that shape",
    "regression": "numbers [N] or [N, columns] and targets of that shape",
    "sequence": "scores [N, steps, classes] or [N, classes, steps] and classes [N, length], -1 "
    "behind the end, or texts",
    "embedding": "vectors [N, values] and the number of who it is [N]",
    "image-to-image": "pictures [N, C, H, W] and pictures of that shape",
    "segmentation": "maps [N, classes, H, W] and masks of class numbers [N, H, W]",
}


def task_of(shape: tuple[int, ...], are_classes: bool | None = None) -> Task:
    """The task that a main output of this shape is taken for, where nobody says.

    Args:
        shape: Images first.
        are_classes: Whether it is known that several numbers are scores of classes, or are not.
    """
    return Classification(are_classes) if are_scores(shape) else Imitation(shape)


def task_for(answer: Tensor, labels: Tensor | None, name: TaskName | None) -> Task:
    """The task that a main output and the labels belong to.

    Args:
        answer: The original's for a few images.
        labels: [N, ...] of all images that have some, those of ``answer`` first; None: there are
            none.
        name: What the user says; None: what labels and output tell.

    Raises:
        DataError: They fit no task, or not the one that is asked for.
        UsageError: A task is asked for that needs labels, and there are none.
    """
    shape = tuple(answer.shape)
    if name == "imitation":
        return Imitation(shape)
    if labels is None:
        if name == "embedding":
            return Embedding()
        if name is not None and name != "classification":
            raise UsageError(
                f"--task {name} needs labels, and there are none; give them, or drop it"
            )
        return task_of(shape)
    fitting = _fitting(shape, labels, name)
    if not fitting and name is None and len(shape) > _MATRIX:
        return Imitation(shape)  # which says that it leaves the labels out
    chosen = name or (fitting[0] if fitting else None)
    if chosen not in fitting:
        takes = _TAKES[name] if name else "; ".join(f"{k}: {v}" for k, v in _TAKES.items())
        kind = "whole numbers" if not labels.is_floating_point() else "numbers"
        raise DataError(
            f"labels of shape {['N', *labels.shape[1:]]} ({kind}) do not fit outputs of shape "
            f"{['N', *shape[1:]]}".replace("'", "")
            + (f" as --task {name}, which takes {takes}" if name else f"; known are {takes}")
            + "; or leave the labels out: images alone are enough"
        )
    return _made(chosen, answer, labels)


def _are_pictures(shape: tuple[int, ...], labels: Tensor, asked: TaskName | None) -> bool:
    """Whether labels are as large as the output, and no mask of one channel."""
    if asked in ("segmentation", "image-to-image"):
        return asked == "image-to-image" and tuple(labels.shape[1:]) == shape[1:]
    is_whole = not labels.is_floating_point()
    is_mask = is_whole and shape[1] == 1 and len(torch.unique(labels)) <= _MASK_VALUES
    return tuple(labels.shape[1:]) == shape[1:] and not is_mask


def _fitting(
    shape: tuple[int, ...], labels: Tensor, asked: TaskName | None
) -> tuple[TaskName, ...]:
    """Tasks that take such an output and such labels, the likeliest first."""
    if labels.dim() == len(shape) == _MAP_DIMS and _are_pictures(shape, labels, asked):
        return ("image-to-image",)
    is_whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    columns = shape[1] if len(shape) == _MATRIX else 1
    if len(shape) >= _MAP_DIMS:
        is_mask = is_whole and labels.dim() == len(shape) - 1
        is_mask |= is_whole and labels.dim() == len(shape) and labels.shape[1] == 1
        return ("segmentation",) if is_mask and len(shape) == _MAP_DIMS else ()
    if len(shape) > _MATRIX:
        is_text = is_whole and labels.dim() == _MATRIX and int(labels.min()) >= -1
        # As many labels as steps may be one for each, which is no text.
        is_sure = is_text and labels.shape[1] not in shape[1:]
        return ("sequence",) if is_text and (is_sure or asked == "sequence") else ()
    if labels.dim() == 1 and columns > 1:
        if asked == "embedding" and is_whole:
            return ("embedding",)
        return ("classification",) if is_whole else ()
    if labels.shape[1:] != ((columns,) if columns > 1 else ()):
        return ()
    are_flags = is_whole and bool(((labels == 0) | (labels == 1)).all())
    if are_flags and columns == 1:
        return ("classification", "multilabel", "regression")
    return ("multilabel", "regression") if are_flags else ("regression",)


def _made(name: TaskName, answer: Tensor, labels: Tensor) -> Task:
    are_probabilities = bool(((answer >= 0) & (answer <= 1)).all())
    if name == "classification":
        is_one = not are_scores(answer.shape)
        return (
            BinaryClassification(are_probabilities=are_probabilities)
            if is_one
            else Classification()
        )
    if name == "multilabel":
        return Multilabel(are_probabilities)
    if name == "sequence":
        return _sequence(answer, labels)
    if name == "embedding":
        return Embedding()
    if name == "image-to-image":
        return scaled_restoration(answer, labels)
    if name == "regression":
        return Regression(scales_of(labels))
    is_one = answer.shape[1] == 1
    return Segmentation(max(2, answer.shape[1]), are_probabilities and is_one)


def _sequence(answer: Tensor, labels: Tensor) -> Task:
    found = read_sequences(answer, labels)
    if found is None:
        raise DataError(
            f"labels up to {int(labels.max())} and {labels.shape[1]} long do not fit outputs of "
            f"shape {['N', *answer.shape[1:]]} as sequences: a class is needed for each, one for "
            "the blank, and as many steps as characters".replace("'", "")
        )
    return found
