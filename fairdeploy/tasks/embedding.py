"""Embedding: vectors whose angles say who is who, judged by finding and by telling apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits
from fairdeploy.records.accuracy import SecondWords, TaskWords
from fairdeploy.tasks.base import Original, pooled
from fairdeploy.tasks.resampled import Figures, Resampled

_FALSE_ACCEPTS = 0.01
_TEMPERATURE = 0.1
_CHUNK = 512
_BINS = 20_001
"""Of the cosine, for the threshold."""


class Embedding(Resampled):
    """Answers are vectors [N, values], targets the number of who it is, [N].

    The quality is recall@1: the share of images, of those whose identity comes up again, whose
    nearest other image by cosine is of the same identity. Beside it stand the true accepts at 1 %
    false accepts: the share of pairs of one identity with a cosine above that which 1 % of the
    pairs of two identities exceed; its interval takes that threshold as given.
    """

    words: ClassVar[TaskWords] = TaskWords("embedding", "recall@1", "%", is_higher_better=True)
    second: ClassVar[SecondWords | None] = SecondWords("true accepts at 1% false accepts", "%")
    judges_by_marks: ClassVar[bool] = False

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data as it is.

        Raises:
            DataError: No identity of the test images comes up twice.
        """
        test = data.test
        if test is not None and test.labels is not None and not _has_pairs(test.labels):
            raise DataError(
                f"none of the {len(test)} test images shows an identity that another one shows; "
                "embedding needs labels that are identities, some of them with several images"
            )
        return data

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Supervised contrast (Khosla et al. 2020), summed over the images.

        Of images whose identity comes up once in a batch, and without targets, all values count.
        """
        if targets is None or not _has_pairs(targets):
            return super().loss(answer, None)
        units = _units(answer)
        itself = torch.eye(len(units), dtype=torch.bool, device=units.device)
        cosines = (units @ units.T / _TEMPERATURE).masked_fill(itself, -torch.inf)
        shares = cosines.log_softmax(1).masked_fill(itself, 0.0)
        same = (targets[:, None] == targets[None]).to(units.device) & ~itself
        return -(shares * same).sum(1).div(same.sum(1).clamp_min(1)).sum()

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """1 minus the cosine, summed over the images."""
        return (1 - (_units(answer) * _units(wanted)).sum(1)).sum()

    def kept(self, answer: Tensor) -> Tensor:
        """Vectors of length 1, float32 [N, values]."""
        return _units(answer).float()

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """1 where the nearest other image is of the same identity, else 0."""
        return self.figures(answers, targets)["hits"]

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """Of each image: whether it finds its like, and its pairs and those that are accepted."""
        counts = torch.zeros(2, _BINS, dtype=torch.float64)
        hits, has_like = [], []
        for start in range(0, len(answers), _CHUNK):
            cosines, same = _compared(answers, targets, start)
            nearest = cosines.argmax(1, keepdim=True)
            hits.append(same.gather(1, nearest)[:, 0].double())
            has_like.append(same.any(1).double())
            for kind, chosen in enumerate((~same & (cosines > -2), same)):
                counts[kind] += torch.bincount(_bins(cosines[chosen]), minlength=_BINS)
        above = counts[0].flip(0).cumsum(0).flip(0)  # pairs of two identities, from a bin on
        limit = int((above <= _FALSE_ACCEPTS * above[0].clamp_min(1)).int().argmax())
        pairs, accepted = [], []
        for start in range(0, len(answers), _CHUNK):
            cosines, same = _compared(answers, targets, start)
            pairs.append(same.sum(1).double())
            accepted.append((same & (_bins(cosines) >= limit)).sum(1).double())
        return {
            "hits": torch.cat(hits), "has_like": torch.cat(has_like),
            "pairs": torch.cat(pairs), "accepted": torch.cat(accepted),
        }  # fmt: skip

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Share of images with a like that find one."""
        return weights @ figures["hits"] / (weights @ figures["has_like"]).clamp_min(1)

    def second_total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Share of pairs of one identity that are accepted."""
        return weights @ figures["accepted"] / (weights @ figures["pairs"]).clamp_min(1)

    def baseline(self, targets: Tensor) -> float:
        """Of any other image at random."""
        counts = torch.unique(targets, return_counts=True)[1].double()
        likes = counts[counts > 1]
        return float((likes * (likes - 1)).sum() / likes.sum().clamp_min(1) / (len(targets) - 1))


def _has_pairs(targets: Tensor) -> bool:
    return len(torch.unique(targets)) < len(targets)


def _units(answer: Tensor) -> Tensor:
    return functional.normalize(pooled(answer), dim=1)


def _compared(answers: Tensor, targets: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Cosines of some images with all, far below -1 with themselves, and who is the same."""
    part = slice(start, start + _CHUNK)
    cosines = answers[part] @ answers.T
    places = torch.arange(len(cosines))
    cosines[places, places + start] = -3.0
    same = targets[part][:, None] == targets[None]
    same[places, places + start] = False
    return cosines, same


def _bins(cosines: Tensor) -> Tensor:
    return ((cosines.clamp(-1, 1) + 1) / 2 * (_BINS - 1)).round().long()
