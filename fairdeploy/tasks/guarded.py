"""A task of the user's own, whose failures end in one line that names it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fairdeploy.errors import FairdeployError, TaskError, UsageError
from fairdeploy.records import AccuracyEstimate, PairedDifference
from fairdeploy.tasks.base import Task

_FEW = 64
_LONGEST = 200


class _Guarded:
    """Stands for a task; whatever its methods raise, or give that is no figure, is a TaskError."""

    def __init__(self, task: Task, called: str, key: str = "") -> None:
        self._task, self._called = task, called
        self.cache_key = key

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Passes for the task's own class."""
        return type(self._task)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._task, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                answer = value(*arguments, **options)
            except FairdeployError:
                raise
            except Exception as error:  # user code
                shapes = [str(list(one.shape)) for one in arguments if isinstance(one, Tensor)]
                given = f" on {' and '.join(shapes)}" if shapes else ""
                text = (str(error).strip().splitlines() or ["no reason given"])[0][:_LONGEST]
                raise TaskError(
                    f"{name} of task '{self._called}' fails{given} with "
                    f"{type(error).__name__}: {text}"
                ) from error
            if isinstance(answer, Task):
                return _Guarded(answer, self._called, self.cache_key)
            _check(name, self._called, answer, arguments)
            return answer

        return call


def guarded(task: object, called: str) -> Task:
    """The task behind its guard.

    Args:
        task: What the user's factory returned.
        called: As the user named it.

    Raises:
        UsageError: It is no task.
    """
    if not isinstance(task, Task):
        raise UsageError(
            f"'{called}' returned a {type(task).__name__}; it must return an object of a class "
            "derived from fairdeploy.tasks.Task or fairdeploy.tasks.Resampled"
        )
    return cast(Task, _Guarded(task, called))


def tried(task: Task, answer: Tensor, targets: Tensor | None) -> Task:
    """The guarded task, once it has been asked everything that a run asks.

    Args:
        task: From ``guarded``.
        answer: The original's for a few images.
        targets: Of the same images; None: there are none.

    Raises:
        TaskError: It fails, or gives no figure.
        UsageError: It needs targets, and there are none.
    """
    own = cast(_Guarded, task)
    if targets is None and task.has_targets:
        raise UsageError(
            f"--task {own._called} needs labels, and there are none; give them, or drop it"
        )
    answer = answer[:_FEW]
    with torch.enable_grad():
        loss = task.loss(answer.clone().requires_grad_(), targets)
    task.divergence(answer, answer)
    task.imitation_loss(answer, answer)
    groups = task.groups(answer, targets)
    if targets is not None and task.has_targets:
        kept = task.kept(answer)
        task.quality(kept, targets)
        task.difference(kept, kept, targets)
        if task.second is not None:
            task.second_quality(kept, targets)
            task.second_difference(kept, kept, targets)
        task.marks(answer, targets)
        task.baseline(targets)
    # What it says of the same answers tells one state of the user's code from another.
    key = f"{own._called} {float(loss.detach()).hex()} {groups.tolist()}"
    return cast(Task, _Guarded(own._task, own._called, key))


def _check(name: str, called: str, answer: Any, arguments: tuple[Any, ...]) -> None:
    """Raise a TaskError if what a method gives is of another kind, or no finite number."""
    said = f"{name} of task '{called}' gives"
    if name in ("loss", "divergence", "imitation_loss"):
        if not isinstance(answer, Tensor) or answer.dim() or not answer.is_floating_point():
            raise TaskError(f"{said} {_kind(answer)}; give one number, as a tensor")
        figures = [answer.detach()]
    elif name == "marks":
        count = len(arguments[0])
        if not isinstance(answer, Tensor) or answer.shape != (count,):
            raise TaskError(f"{said} {_kind(answer)} for {count} images; give a tensor [N]")
        figures = [answer]
    elif name in ("quality", "difference", "second_quality", "second_difference"):
        kind = PairedDifference if name == "difference" else AccuracyEstimate
        if not isinstance(answer, kind):
            raise TaskError(f"{said} {_kind(answer)}; give a {kind.__name__}")
        figures = [torch.tensor([answer.value, answer.low, answer.high])]
    else:
        return
    if not all(bool(torch.isfinite(each).all()) for each in figures):
        raise TaskError(f"{said} NaN or an infinite value; every answer must get a finite one")


def _kind(answer: object) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of shape {list(answer.shape)}"
    return f"a {type(answer).__name__}"
