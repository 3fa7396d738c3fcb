"""The base class of all tasks; its defaults serve any output and need no targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.records import (
    AccuracyEstimate,
    ClassChange,
    DataSplits,
    ImageSet,
    PairedDifference,
    Preprocessing,
    PruningMethod,
)
from fairdeploy.records.accuracy import SecondWords, TaskWords
from fairdeploy.tasks.augmentation import shifted_and_flipped

NUM_ASKED = 64
"""Images that show whether another preparation suits an original better."""
_MATRIX = 2
_TINY = 1e-12
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True, slots=True)
class Original:
    """The network before anything was removed, as a task asks it to check targets."""

    answers: Callable[[ImageSet], Tensor]
    """Pooled answers for all images, float32 [N, values]."""
    norm_distance: Callable[[ImageSet], float | None]
    """How far what reaches the first norm lies from its running mean, in standard deviations."""
    reread: Callable[[Preprocessing], ImageSet] | None
    """The same few images prepared otherwise; None where the user's own code prepares them."""
    preprocessing: Preprocessing
    num_outputs: int
    """Values of a pooled answer."""


class Task:
    """What the answers of a network are for.

    An answer is the main output for a batch, images first. Targets say what the answers should be:
    one tensor, images first, in the form that the task reads. A new task writes what it knows
    better; the defaults suit outputs about which nothing is known.
    """

    words: ClassVar[TaskWords] = TaskWords("unknown", "", "", is_higher_better=True)
    second: ClassVar[SecondWords | None] = None
    """A figure that is shown beside the quality."""
    has_targets: ClassVar[bool] = False
    """Whether answers are compared with targets at all; else with the original's answers."""
    judges_by_marks: ClassVar[bool] = True
    """Whether a repair is judged by ``marks`` where there are targets; else by how close its
    answers come to the original's."""

    @property
    def cache_key(self) -> str:
        """What tells the scores of one task from those of another."""
        return self.words.name

    # ---- targets and images ----------------------------------------------------------------------

    def informed(self, data: DataSplits) -> Self:
        """The task with what the data, once checked, tell about the answers."""
        return self

    def checked(self, data: DataSplits, original: Original, *, names_are_given: bool) -> DataSplits:
        """The data if their targets and the original's answers belong together; else without.

        Args:
            data: As read.
            original: The network, and how to prepare a few images in another way.
            names_are_given: Whether the user gave the order of what targets number.

        Raises:
            DataError: There are targets that this task does not read.
        """
        return data

    def with_own_targets(self, data: DataSplits, original: Original) -> DataSplits:
        """Calibration images without targets get what the original itself answers."""
        return data

    def check_method(self, method: PruningMethod) -> None:
        """Refuse a signal that these answers do not allow.

        Raises:
            UsageError: A signal compares images by their targets, and there can be none.
        """

    def augmented(
        self, images: Tensor, targets: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, C, H, W] moved and mirrored at random, and their targets with them."""
        return shifted_and_flipped(images, generator), targets

    # ---- learning --------------------------------------------------------------------------------

    def own_targets(self, answer: Tensor) -> Tensor | None:
        """Targets that the answer itself would meet; None where there is no such thing."""
        return None

    def loss(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """What scoring differentiates and training lowers, summed over the images.

        Without targets a unit matters if the answer would change without it.

        Raises:
            DataError: A target does not fit the answer.
        """
        if pooled(answer).shape[1] == 1:
            return pooled(answer).sum()
        # Squares would leave the word to the largest values: of three digits in a row, at 30 % of
        # the parameters, 95.0 % are read right after repair so, and 94.0 % with squares.
        return _rows(answer).abs().mean(1).sum()

    def divergence(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """How far an answer is from another network's, summed over the images; at least 0."""
        return _rows(answer - wanted).square().mean(1).sum()

    def imitation_loss(self, answer: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """What learning from another network's answer lowers; of any number of images alike."""
        return value_error(answer, wanted)

    def groups(self, answer: Tensor, targets: Tensor | None) -> Tensor:
        """Which images belong together, int64 [N], for a signal that compares groups of them.

        Where all belong together, those with higher and with lower values serve as two groups.
        """
        return torch.zeros(len(answer), dtype=torch.int64)

    # ---- judging ---------------------------------------------------------------------------------

    def marks(self, answer: Tensor, targets: Tensor) -> Tensor:
        """How good each image's answer is, float64 [N]; the higher the better."""
        raise NotImplementedError

    def are_telling(self, own_targets: Tensor, num_values: int) -> bool:
        """Whether what the original answers to many images can stand for targets.

        Args:
            own_targets: What it answers.
            num_values: How many values an answer has.
        """
        return False

    def kept(self, answer: Tensor) -> Tensor:
        """What judging needs of an answer, images first; the rest need not be held in memory."""
        return answer

    def quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        """The figure that users know, with its 95 % interval.

        Args:
            answers: As ``kept`` gives them.
            targets: Of the same images.
        """
        raise NotImplementedError

    def baseline(self, targets: Tensor) -> float | None:
        """The quality of always giving the same answer; None where it is checked otherwise."""
        return None

    def difference(self, before: Tensor, after: Tensor, targets: Tensor) -> PairedDifference:
        """The quality of ``after`` minus that of ``before`` on the same images."""
        raise NotImplementedError

    def second_quality(self, answers: Tensor, targets: Tensor) -> AccuracyEstimate:
        """The figure of ``second``, with its 95 % interval."""
        raise NotImplementedError

    def second_difference(self, before: Tensor, after: Tensor, targets: Tensor) -> AccuracyEstimate:
        """That of ``after`` minus that of ``before`` on the same images."""
        raise NotImplementedError

    def changes(self, before: Tensor, after: Tensor, targets: Tensor) -> tuple[ClassChange, ...]:
        """Where the quality changed, by what is told apart; empty where nothing is."""
        return ()

    def agreeing(self, ours: Any, theirs: Any) -> NDArray[np.bool_] | None:
        """Which images two networks answer alike, without targets; None where that says nothing.

        Args:
            ours: Tensor or array.
            theirs: The original's.
        """
        return None

    def agreement(self, ours: Any, theirs: Any) -> float | None:
        """Share of images that two networks answer alike; None where that says nothing."""
        found = self.agreeing(ours, theirs)
        return None if found is None else float(found.mean())


def pooled(answer: Tensor) -> Tensor:
    """Values [N, channels]: maps are averaged over space, a single value gets a dimension."""
    if answer.dim() == 1:
        return answer[:, None]
    return answer.flatten(_MATRIX).mean(_MATRIX) if answer.dim() > _MATRIX else answer


def two_scores(score: Tensor, are_probabilities: bool) -> Tensor:
    """Scores of two classes [N, 2, ...] from one [N, 1, ...]: the first class scores 0."""
    score = logits(score) if are_probabilities else score
    return torch.cat([torch.zeros_like(score), score], 1)


def logits(probabilities: Tensor) -> Tensor:
    """Finite scores whose sigmoids are these probabilities."""
    return torch.logit(probabilities, eps=_LEAST_PROBABILITY)


def _rows(answer: Tensor) -> Tensor:
    return answer.reshape(len(answer), -1)


def value_error(value: Tensor, wanted: Tensor, batch_dim: int = 0) -> Tensor:
    """Mean squared error as a share of the wanted value's variance over images and positions."""
    assert value.shape == wanted.shape, f"{tuple(value.shape)} against {tuple(wanted.shape)}"
    variance = (wanted - wanted.mean(dim=batch_dim, keepdim=True)).square().mean()
    return (value - wanted).square().mean() / variance.clamp_min(_TINY)
