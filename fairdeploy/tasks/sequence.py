"""Sequence: what is written in a picture or said in a sound, read without an alignment (CTC).

Connectionist temporal classification, Graves et al. 2006: at each step one class is the likeliest;
repeats become one, and the blank is left out. That is what is judged, without a language model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fairdeploy.errors import DataError
from fairdeploy.records import DataSplits
from fairdeploy.records.accuracy import SecondWords, TaskWords
from fairdeploy.tasks.base import Original
from fairdeploy.tasks.resampled import Figures, Resampled

_NONE = -1
"""Behind the end of a sequence."""
_LEAST_PROBABILITY = 1e-12
_LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Sequence(Resampled):
    """Answers are scores [N, steps, classes] or [N, classes, steps], targets [N, length] classes.

    Shorter targets end with -1. The quality is the share of sequences without a fault; beside it
    stands 1 minus the number of insertions, deletions and changes as a share of all characters.
    """

    words: ClassVar[TaskWords] = TaskWords(
        "sequence", "word accuracy", "%", is_higher_better=True, agreement="same words",
        agreement_means="The share of images of which file and torch read the same.",
    )  # fmt: skip
    second: ClassVar[SecondWords | None] = SecondWords("character accuracy", "%")
    class_dim: int = 2
    blank: int = 0
    shift: int = 0
    """What is added to a target to make it a class."""
    are_probabilities: bool = False
    share_right: float | None = None
    """Of the characters, where the reading was found out."""
    share_of_others: float = 0.0
    """That the same answers have right of the labels of other images."""

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data as it is, with how answers are read.

        Raises:
            DataError: However they are read the original has next to nothing right.
        """
        if self.share_right is None:
            return data
        if self.share_right < self.share_of_others + _LEAST_GAIN:
            raise DataError(
                f"the original reads {self.share_right:.1%} of the characters right, and has "
                f"{self.share_of_others:.1%} of those of other images right by chance: check that "
                "the labels are classes in the network's order (--class-names for texts), or leave "
                "them out"
            )
        shift = f", labels count from class {self.shift}" if self.shift else ""
        text = (
            f"sequences are read with class {self.blank} as the blank and classes in dimension "
            f"{self.class_dim} of the answers{shift}: {self.share_right:.1%} of the characters are "
            "right so"
        )
        return replace(data, warnings=(*data.warnings, text))

    def own_targets(self, answer: Tensor) -> Tensor:
        """What the answer reads, as targets."""
        read = self.kept(answer).long()
        return torch.where(read == _NONE, read, read - self.shift)

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Negative logarithm of the target's probability a character, summed over the images."""
        if targets is None:
            targets = self.own_targets(answer.detach())
        wanted = self._classes(targets.to(answer.device))
        scores = self._scores(answer).log_softmax(2)
        lengths = (wanted != _NONE).sum(1)
        losses = functional.ctc_loss(
            scores.transpose(0, 1), wanted.clamp_min(0),
            torch.full_like(lengths, scores.shape[1]), lengths,
            blank=self.blank, reduction="none", zero_infinity=True,
        )  # fmt: skip
        return (losses / lengths.clamp_min(1)).sum()

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """The class that is likeliest over all steps, the blank apart."""
        shares = self._scores(answer).softmax(2).sum(1)
        shares[:, self.blank] = _NONE
        return shares.argmax(1)

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Kullback-Leibler divergence of the classes' probabilities, by step."""
        ours, theirs = (
            (self._scores(each) / temperature).log_softmax(2) for each in (answer, wanted)
        )
        divergence = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
        return divergence * temperature**2 / ours.shape[1]

    def kept(self, answer: Tensor) -> Tensor:
        """Classes that are read, int32 [N, steps], -1 behind the end."""
        best = self._scores(answer).argmax(2)
        is_new = functional.pad(best[:, 1:] != best[:, :-1], (1, 0), value=True)
        is_read = is_new & (best != self.blank)
        order = (~is_read).to(torch.int8).argsort(dim=1, stable=True)
        read = best.masked_fill(~is_read, _NONE).gather(1, order)
        return read.to(torch.int32)

    def marks_of_kept(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Share of a sequence's characters that are right."""
        figures = self.figures(answers, targets)
        return 1 - figures["faults"] / figures["characters"].clamp_min(1)

    def figures(self, answers: Tensor, targets: Tensor) -> Figures:
        """Whether a sequence is right, its faults and its length, float64 [N]."""
        rows = zip(_lists(answers), _lists(self._classes(targets)), strict=True)
        faults = torch.tensor([_edits(*pair) for pair in rows], dtype=torch.float64)
        characters = (targets != _NONE).reshape(len(targets), -1).sum(1).double()
        return {"right": (faults == 0).double(), "faults": faults, "characters": characters}

    def total(self, figures: Figures, weights: Tensor) -> Tensor:
        """Share of sequences without a fault."""
        return weights @ figures["right"] / weights.sum(1)

    def second_total(self, figures: Figures, weights: Tensor) -> Tensor:
        """1 minus the faults as a share of all characters."""
        return 1 - weights @ figures["faults"] / (weights @ figures["characters"]).clamp_min(1)

    def decisions(self, answer: Tensor) -> Tensor:
        """What is read, all of it."""
        return self.kept(answer)

    def _scores(self, answer: Tensor) -> Tensor:
        """[N, steps, classes], whose softmax are the probabilities."""
        scores = answer.movedim(self.class_dim, 2)
        return scores.clamp_min(_LEAST_PROBABILITY).log() if self.are_probabilities else scores

    def _classes(self, targets: Tensor) -> Tensor:
        """int64 [N, length], -1 behind the end."""
        found = targets.long().reshape(len(targets), -1)
        return torch.where(found < 0, _NONE, found + self.shift)


def read_sequences(answer: Tensor, labels: Tensor) -> Sequence | None:
    """How answers are read: as they come closest to the labels; None where no way fits.

    Tried are both dimensions as that of the classes, the first and the last class as the blank, and
    labels that count from the first class or from the one behind the blank.

    Args:
        answer: The original's for a few images, [N, ., .].
        labels: Of the same images first, [N, length].
    """
    are_shares = bool((answer >= 0).all())
    most, some = int(labels.max()), labels[: len(answer)]
    found: list[tuple[float, int, Sequence]] = []
    for dim in (2, 1):
        count, steps = answer.shape[dim], answer.shape[3 - dim]
        is_normal = are_shares and bool(((answer.sum(dim) - 1).abs() < 1e-3).all())
        for blank in dict.fromkeys((0, count - 1)):
            for shift in (0, 1):
                if most + shift >= count or labels.shape[1] > steps:
                    continue
                if bool((labels + shift == blank)[labels >= 0].any()):
                    continue
                task = Sequence(dim, blank, shift, is_normal)
                share, others = (
                    float(task.marks(answer, those).clamp_min(0).mean())
                    for those in (some, some.roll(1, 0))
                )
                known = replace(task, share_right=share, share_of_others=others)
                found.append((share, -len(found), known))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _lists(classes: Tensor) -> list[list[int]]:
    return [[code for code in row if code != _NONE] for row in classes.tolist()]


def _edits(ours: list[int], theirs: list[int]) -> int:
    """Fewest insertions, deletions and changes that make one the other (Levenshtein)."""
    if ours == theirs:
        return 0
    row = list(range(len(theirs) + 1))
    for place, code in enumerate(ours, 1):
        before, row[0] = row[0], place
        for other, wanted in enumerate(theirs, 1):
            change = before + (code != wanted)
            before, row[other] = row[other], min(change, row[other] + 1, row[other - 1] + 1)
    return row[-1]
