"""The tasks that a user can name; see ``fairdeploy.tasks``."""

from __future__ import annotations

from typing import Literal, get_args

TaskName = Literal["classification", "multilabel", "regression", "segmentation", "imitation"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
