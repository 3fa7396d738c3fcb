"""Two classes told by one number: the second where it is above 0, or a probability above half."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.records import DataSplits
from fairdeploy.tasks.base import Original, two_scores
from fairdeploy.tasks.classification import Classification


@dataclass(frozen=True)
class BinaryClassification(Classification):
    """Answers are [N] or [N, 1], targets 0 or 1, int64 [N]; the first class scores 0."""

    are_probabilities: bool = False

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """As for several classes."""
        two = replace(
            original, answers=lambda images: self._two(original.answers(images)), num_outputs=2
        )
        return super().checked(data, two, names_are_given=names_are_given)

    def own_targets(self, answer: Tensor) -> Tensor:
        """The class with the larger score, int64 [N]."""
        return super().own_targets(self._two(answer))

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Binary cross-entropy."""
        return super().loss(self._two(answer), targets)

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of both classes' probabilities."""
        return super().divergence(self._two(answer), self._two(wanted), temperature)

    def marks(self, answer: Tensor, targets: Tensor) -> Tensor:
        """1 for the right class, else 0."""
        return super().marks(self._two(answer), targets)

    def kept(self, answer: Tensor) -> Tensor:
        """The class, int64 [N]."""
        return super().kept(self._two(answer))

    def agreeing(self, ours: Any, theirs: Any) -> NDArray[np.bool_] | None:
        """Images with the same class."""
        if tuple(ours.shape) != tuple(theirs.shape):
            return np.zeros(len(theirs), dtype=np.bool_)
        classes = [self.kept(torch.as_tensor(each)) for each in (ours, theirs)]
        same: NDArray[np.bool_] = (classes[0] == classes[1]).numpy()
        return same

    def _two(self, answer: Tensor) -> Tensor:
        """Scores of both classes, [N, 2]."""
        values = answer.reshape(len(answer), -1)
        return values if values.shape[1] > 1 else two_scores(values, self.are_probabilities)
