"""Several labels an image: one score for each, which says yes or no; mean average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.records.accuracy import TaskWords
from fairdeploy.tasks.base import logits, pooled
from fairdeploy.tasks.resampled import Figures, Resampled

_TINY = 1e-12


@dataclass(frozen=True)
class Multilabel(Resampled):
    """Answers are scores [N, labels] or [N], targets 0 or 1 of the same shape.

    Average precision of a label is the mean precision at each of its images, in order of their
    scores; where all or none of the images have it, it says nothing and is left out.
    """

    words: ClassVar[TaskWords] = TaskWords(
        "multilabel", "mAP", "%", is_higher_better=True, agreement="same labels",
        agreement_means="The share of labels that file and torch give or withhold alike.",
    )  # fmt: skip
    are_probabilities: bool = False
    """Whether answers are probabilities; else scores, which say yes above 0."""

    def own_targets(self, answer: Tensor) -> Tensor:
        """The labels that the answer gives, as float."""
        return (self._scores(answer) > 0).float()

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """The label with the highest score; of one label whether it is given."""
        scores = self._scores(answer)
        return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Binary cross-entropy of a label, summed over the images."""
        assert targets is not None
        scores = self._scores(answer)
        wanted = targets.reshape(scores.shape).to(scores)
        entropies = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        return entropies.mean(1).sum()

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of yes and no, by label."""
        ours, theirs = (self._scores(each) / temperature for each in (answer, wanted))
        share = theirs.sigmoid()
        yes = functional.logsigmoid(theirs) - functional.logsigmoid(ours)
        no = functional.logsigmoid(-theirs) - functional.logsigmoid(-ours)
        return (share * yes + (1 - share) * no).mean(1).sum() * temperature**2

    def kept(self, answer: Tensor) -> Tensor:
        """Scores, float64 [N, labels]."""
        return self._scores(answer).double()

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Share of an image's labels that are right."""
        return ((answers > 0) == (targets.reshape(answers.shape) > 0)).double().mean(1)

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """Scores and labels: the order of all images makes the figure."""
        return {"scores": answers, "targets": targets.reshape(answers.shape).double()}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Mean of the labels' average precisions."""
        found, counted = torch.zeros(len(weights), dtype=torch.float64), torch.zeros(len(weights))
        for scores, wanted in zip(figures["scores"].T, figures["targets"].T, strict=True):
            order = scores.argsort(descending=True, stable=True)
            drawn = weights[:, order]
            hits = drawn * wanted[order]
            precision = hits.cumsum(1) / drawn.cumsum(1).clamp_min(_TINY)
            positives = hits.sum(1)
            says = (positives > 0) & (positives < drawn.sum(1))
            precisions = (hits * precision).sum(1) / positives.clamp_min(_TINY)
            found += torch.where(says, precisions, torch.zeros_like(precisions))
            counted += says
        return found / counted.clamp_min(1)

    def baseline(self, targets: Tensor) -> float:
        """Of any fixed order of the images: how often a label comes up."""
        return float((targets.reshape(len(targets), -1) > 0).double().mean())

    def decisions(self, answer: Tensor) -> Tensor:
        """Which labels are given."""
        return self._scores(answer) > 0

    def _scores(self, answer: Tensor) -> Tensor:
        """[N, labels]."""
        values = pooled(answer)
        return logits(values) if self.are_probabilities else values
