"""What a network's answers are for: how they are learned from, judged and compared.

Everything else works for any task and asks the one that the run hands down with the network's
outputs. A new task is a class derived from ``base.Task`` in a file of its own.
"""

from __future__ import annotations

from fairdeploy.tasks.base import Task
from fairdeploy.tasks.classification import Classification, are_scores
from fairdeploy.tasks.imitation import Imitation


def task_of(shape: tuple[int, ...], are_classes: bool | None = None) -> Task:
    """The task that a main output of this shape is taken for, where nobody says.

    Args:
        shape: Images first.
        are_classes: Whether it is known that several numbers are scores of classes, or are not.
    """
    return Classification(are_classes) if are_scores(shape) else Imitation(shape)
