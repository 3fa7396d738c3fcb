"""What a network's answers are for: how they are learned from, judged and compared.

Everything else works for any task and asks the one that the run hands down with the network's
outputs. A new task is a class derived from ``base.Task`` in a file of its own.
"""

from __future__ import annotations

from torch import Tensor

from fairdeploy.errors import DataError, UsageError
from fairdeploy.records.task_names import TaskName
from fairdeploy.tasks.base import Task
from fairdeploy.tasks.classification import Classification, are_scores
from fairdeploy.tasks.classification.binary import BinaryClassification
from fairdeploy.tasks.imitation import Imitation
from fairdeploy.tasks.multilabel import Multilabel
from fairdeploy.tasks.regression import Regression, scales_of
from fairdeploy.tasks.resampled import Resampled
from fairdeploy.tasks.segmentation import Segmentation

__all__ = ["Resampled", "Task", "task_for", "task_of"]

_MATRIX, _MAP_DIMS = 2, 4
_TAKES = {
    "classification": "scores [N, classes], or one for two classes, and class numbers [N]",
    "multilabel": "scores [N, labels] and flags 0 or 1 of that shape",
    "regression": "numbers [N] or [N, columns] and targets of that shape",
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
        labels: [N, ...] of all images that have some; None: there are none.
        name: What the user says; None: what labels and output tell.

    Raises:
        DataError: They fit no task, or not the one that is asked for.
        UsageError: A task is asked for that needs labels, and there are none.
    """
    shape = tuple(answer.shape)
    if name == "imitation":
        return Imitation(shape)
    if labels is None:
        if name in ("regression", "multilabel", "segmentation"):
            raise UsageError(
                f"--task {name} needs labels, and there are none; give them, or drop it"
            )
        return task_of(shape)
    fitting = _fitting(shape, labels)
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


def _fitting(shape: tuple[int, ...], labels: Tensor) -> tuple[TaskName, ...]:
    """Tasks that take such an output and such labels, the likeliest first."""
    is_whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    columns = shape[1] if len(shape) == _MATRIX else 1
    if len(shape) >= _MAP_DIMS:
        is_mask = is_whole and labels.dim() == len(shape) - 1
        is_mask |= is_whole and labels.dim() == len(shape) and labels.shape[1] == 1
        return ("segmentation",) if is_mask and len(shape) == _MAP_DIMS else ()
    if len(shape) > _MATRIX:
        return ()
    if labels.dim() == 1 and columns > 1:
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
    if name == "regression":
        return Regression(scales_of(labels))
    is_one = answer.shape[1] == 1
    return Segmentation(max(2, answer.shape[1]), are_probabilities and is_one)
