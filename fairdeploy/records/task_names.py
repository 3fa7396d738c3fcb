"""The tasks that a user can name; see ``fairdeploy.tasks``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Literal, get_args

from fairdeploy.errors import UsageError
from fairdeploy.records.architecture import is_factory_spec

TaskName = Literal[
    "classification", "multilabel", "regression", "segmentation",
    "sequence", "embedding", "image-to-image", "imitation",
]  # fmt: skip
TASKS: tuple[TaskName, ...] = get_args(TaskName)
ENTRY_POINT_GROUP = "fairdeploy.tasks"
"""Where installed packages offer tasks of their own: name = "package.module:factory"."""


def parse_task(text: str) -> str:
    """A task's name, or where the code of one's own is: ``file.py:factory``.

    Raises:
        UsageError: Nothing is called so.
    """
    names = (*TASKS, *sorted(entry_points(group=ENTRY_POINT_GROUP).names))
    if text in names or is_factory_spec(text):
        return text
    raise UsageError(
        f"no task '{text}'; use one of {', '.join(names)}, or file.py:factory for one of your own"
    )


def task_spec(name: str) -> str | None:
    """``module:factory`` of a task of one's own; None for ours."""
    if is_factory_spec(name):
        return name
    return next((e.value for e in entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
