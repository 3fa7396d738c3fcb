"""Regression: numbers to predict, judged by the share of their variance that is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fairdeploy.errors import UsageError
from fairdeploy.records import PruningMethod
from fairdeploy.records.accuracy import TaskWords
from fairdeploy.tasks.resampled import Figures, Resampled

_COMPARES_IMAGES = "wasserstein"
_TINY = 1e-12


@dataclass(frozen=True)
class Regression(Resampled):
    """Answers are numbers [N] or [N, columns], targets the right ones, in the same units.

    Each column counts on its own scale: R² is 1 minus its squared error over the variance of its
    targets. 0 is what always giving the mean would get.
    """

    words: ClassVar[TaskWords] = TaskWords("regression", "R²", "%", is_higher_better=True)
    judges_by_marks: ClassVar[bool] = False
    scales: tuple[float, ...]
    """Standard deviation of each column's targets."""

    def check_method(self, method: PruningMethod) -> None:
        """Refuse a signal that compares classes, which numbers are not.

        Raises:
            UsageError: One is asked for.
        """
        for option, name in (("--signal", method.signal), ("--protect", method.protect)):
            if name == _COMPARES_IMAGES:
                raise UsageError(
                    f"{option} {name} compares classes, and the targets are numbers; give another "
                    f"signal: {option} l1"
                )

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Half the squared error in standard deviations, summed over the images."""
        assert targets is not None
        return self._errors(answer, targets).mean(1).sum() / 2

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Squared difference in standard deviations, summed over the images."""
        return self._errors(answer, wanted).mean(1).sum()

    def kept(self, answer: Tensor) -> Tensor:
        """The numbers, float64 [N, columns]."""
        return _columns(answer).double()

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """1 minus the mean squared error of an image in standard deviations."""
        return 1 - self._errors(answers, targets.double()).mean(1)

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """Squared errors, targets and their squares, float64 [N, columns]."""
        wanted = _columns(targets).double()
        centred = wanted - wanted.mean(0)
        return {"errors": (answers - wanted) ** 2, "targets": centred, "squares": centred**2}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Mean over the columns whose targets differ."""
        count = weights.sum(1, keepdim=True)
        spread = weights @ figures["squares"] - (weights @ figures["targets"]) ** 2 / count
        explained = 1 - (weights @ figures["errors"]) / spread.clamp_min(_TINY)
        differs = spread > _TINY
        kept = torch.where(differs, explained, torch.zeros_like(explained))
        return kept.sum(1) / differs.sum(1).clamp_min(1)

    def baseline(self, targets: Tensor) -> float:
        """Of the mean: nothing is explained."""
        return 0.0

    def _errors(self, answer: Tensor, wanted: Tensor) -> Tensor:
        scales = torch.tensor(self.scales, dtype=answer.dtype, device=answer.device)
        return ((_columns(answer) - _columns(wanted).to(answer)) / scales) ** 2


def _columns(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def scales_of(targets: Tensor) -> tuple[float, ...]:
    """Standard deviation of each column, 1 where all are the same."""
    spreads = _columns(targets).double().std(0, correction=0)
    return tuple(float(s) if s > _TINY else 1.0 for s in spreads)
