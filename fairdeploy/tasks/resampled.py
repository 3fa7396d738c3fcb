"""Tasks whose quality is one figure of all images together, not a mean over them.

Its interval, and that of a difference on the same images, come from drawing the images again
(bootstrap, percentiles).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.records import AccuracyEstimate, PairedDifference
from fairdeploy.tasks.base import Task

_NUM_DRAWS = 1_000
_CHUNK = 2**24
_TAIL = 0.025
_TINY = 1e-12
Figures = dict[str, Tensor]
"""Sums of an image, [N, ...] each, from which the quality of any set of images follows."""


class Resampled(Task):
    """Has targets; a task derived from it says what an image contributes, and what that makes.

    The least that one writes are ``words``, ``loss`` and ``marks_of_kept``: then the quality is the
    mean of the marks.
    """

    has_targets: ClassVar[bool] = True
    least_alike: ClassVar[float] = 1.0
    """Share of an image's decisions that makes two answers the same."""

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """What each image contributes.

        Args:
            answers: As ``kept`` gives them.
            targets: Of the same images.
        """
        return {"marks": self.marks_of_kept(answers, targets)}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """The quality of [draws] sets of images, in which each comes ``weights`` [draws, N] times.

        Returns:
            float64 [draws]; 1 is perfect.
        """
        return weights @ figures["marks"].double() / weights.sum(1)

    def second_total(self, figures: Figures, weights: Tensor) -> Tensor:
        """The figure of ``second`` of such sets, float64 [draws]."""
        raise NotImplementedError

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """``marks`` of answers as ``kept`` gives them."""
        raise NotImplementedError

    def marks(self, answer: Tensor, targets: Tensor) -> Tensor:
        """How good each image's answer is, float64 [N]; 1 is perfect."""
        return self.marks_of_kept(self.kept(answer), targets)

    def imitation_loss(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """The divergence of an image."""
        return self.divergence(answer, wanted, temperature) / len(answer)

    def decisions(self, answer: Tensor) -> Tensor | None:
        """What an answer comes to, [N, ...], each right or wrong; None where there is no such."""
        return None

    def agreeing(self, ours: Any, theirs: Any) -> NDArray[np.bool_] | None:
        """Images of which (nearly) all decisions are the same."""
        same = self._same(ours, theirs)
        return None if same is None else (same.mean(1) >= self.least_alike).numpy()

    def agreement(self, ours: Any, theirs: Any) -> float | None:
        """Share of all decisions that are the same."""
        same = self._same(ours, theirs)
        return None if same is None else float(same.mean())

    def _same(self, ours: Any, theirs: Any) -> Tensor | None:
        """1 for each decision that is the same, else 0, float64 [N, decisions]."""
        wanted = self.decisions(torch.as_tensor(theirs))
        if wanted is None:
            return None
        if tuple(ours.shape) != tuple(theirs.shape):
            return torch.zeros(len(theirs), 1, dtype=torch.float64)
        found = self.decisions(torch.as_tensor(ours))
        assert found is not None
        return torch.eq(found, wanted).reshape(len(wanted), -1).double()

    def quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        """The figure of all images, with its 95 % interval."""
        _require_pairs(answers, targets)
        return _estimate(self.total, [self.figures(answers, targets)], len(targets))[0]

    def second_quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        """The same of the figure of ``second``."""
        _require_pairs(answers, targets)
        return _estimate(self.second_total, [self.figures(answers, targets)], len(targets))[0]

    def second_difference(self, before: Tensor, after: Tensor, targets: Tensor) -> AccuracyEstimate:
        """That of ``after`` minus that of ``before``, with the interval of paired draws."""
        _require_pairs(after, targets)
        both = [self.figures(answers, targets) for answers in (before, after)]
        return _estimate(self.second_total, both, len(targets))[0]

    def difference(self, before: Tensor, after: Tensor, targets: Tensor) -> PairedDifference:
        """The quality of ``after`` minus that of ``before``, with the interval of paired draws."""
        _require_pairs(after, targets)
        both = [self.figures(answers, targets) for answers in (before, after)]
        count = len(targets)
        found, spread = _estimate(self.total, both, count)
        marks = self.marks_of_kept(after, targets) - self.marks_of_kept(before, targets)
        # Numbers are always a little other ones; words and classes are the same or not.
        is_other = marks.abs() > _TINY if after.is_floating_point() else before != after
        return PairedDifference(
            value=found.value,
            low=found.low,
            high=found.high,
            num_images=count,
            num_lost=int((marks < -_TINY).sum()),
            num_gained=int((marks > _TINY).sum()),
            num_changed=int(is_other.reshape(count, -1).any(1).sum()),
            spread=spread * count**0.5,
        )


def _estimate(
    total: Callable[[Figures, Tensor], Tensor], figures: list[Figures], count: int
) -> tuple[AccuracyEstimate, float]:
    """A figure, or the last minus the first of two, and its standard deviation over the draws."""

    def of(weights: Tensor) -> Tensor:
        last, *first = (total(each, weights) for each in reversed(figures))
        return last - first[0] if first else last

    value = float(of(torch.ones(1, count, dtype=torch.float64)))
    drawn = torch.cat([of(weights) for weights in _draws(count)])
    low, high = _percentiles(drawn)
    estimate = AccuracyEstimate(value, min(low, value), max(high, value), count)
    return estimate, float(drawn.std(correction=0))


def _require_pairs(answers: Tensor, targets: Tensor) -> None:
    if len(answers) != len(targets) or not len(targets):
        raise DataError(
            f"quality needs one answer for each target, got {len(answers)} and {len(targets)}"
        )


def _draws(count: int) -> list[Tensor]:
    """How often each of ``count`` images is drawn, in chunks [draws, count]; always the same."""
    generator = torch.Generator().manual_seed(0)
    rows = max(1, min(_NUM_DRAWS, _CHUNK // count))
    chunks = []
    for start in range(0, _NUM_DRAWS, rows):
        shape = (min(rows, _NUM_DRAWS - start), count)
        drawn = torch.randint(count, shape, generator=generator)
        ones = torch.ones(shape, dtype=torch.float64)
        chunks.append(torch.zeros(shape, dtype=torch.float64).scatter_add_(1, drawn, ones))
    return chunks


def _percentiles(drawn: Tensor) -> tuple[float, float]:
    low, high = drawn.quantile(torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64)).tolist()
    return low, high
