"""How a network's answers differ from the original's on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from fairdeploy.records.metrics import MetricName

Measure = Literal["accuracy", "agreement", "error"]
"""Share of right answers; share of the images with the original's class; squared error against the
original as a share of its outputs' variance."""
_CONFIDENCE = 0.95
STEPS = {
    "original": "original",
    "pruned": "pruned, before repair",
    "recovered": "after recovery",
    "distilled": "after distillation",
    "tuned": "after training",
    "exported": "exported file",
}
"""What a network is judged after, in this order and these words."""
REPAIRS = ("recovered", "distilled", "tuned")
"""Those that restore accuracy."""


def paired_interval(
    total: float, squares: float, count: int, unit: float = 1.0, num_looks: int = 1
) -> tuple[float, float]:
    """The 95 % interval of a mean of paired differences.

    Agresti and Min's (2005) for matched pairs: Wald's with half an image added to each of the four
    cells, which keeps its level for few images too. Images that both have right, or both wrong,
    tell nothing about the difference, so it is much narrower than one made of two intervals.

    Args:
        total: Sum of the differences.
        squares: Sum of their squares.
        count: How many there are.
        unit: How large a difference is where there is one.
        num_looks: Of so many means this is the largest; wider for it (Bonferroni).
    """
    value, centre = total / count, total / (count + 2)
    spread = ((squares + unit**2) / (count + 2) - centre**2) / (count + 2)
    half = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / 2 / num_looks) * max(spread, 0.0) ** 0.5
    return min(centre - half, value), max(centre + half, value)


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """A figure that judges a network, its share of right answers first, with a 95 % interval."""

    value: float
    low: float
    high: float
    num_images: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy minus the original's, with the 95 % interval of paired samples."""

    value: float
    low: float
    high: float
    num_images: int
    num_lost: int
    """Images that only the original has right."""
    num_gained: int
    """Images that only the other has right."""
    num_changed: int
    """Images that get another class than the original gives, right or wrong."""
    spread: float | None = None
    """Standard deviation of what an image adds to the value; None: that of ``num_lost`` and
    ``num_gained``, of images that are right or wrong."""

    @classmethod
    def of_counts(
        cls, num_images: int, num_lost: int, num_gained: int, num_changed: int
    ) -> PairedDifference:
        """From how many images only the original, and only the other, has right."""
        total, squares = num_gained - num_lost, num_gained + num_lost
        low, high = paired_interval(total, squares, num_images)
        return cls(
            value=total / num_images,
            low=max(low, -1.0),
            high=min(high, 1.0),
            num_images=num_images,
            num_lost=num_lost,
            num_gained=num_gained,
            num_changed=num_changed,
        )

    def stays_within(self, max_drop: float) -> bool:
        """Whether even the low end of the interval loses at most this share of all images."""
        return self.low >= -max_drop

    def surely_exceeds(self, max_drop: float) -> bool:
        """Whether even the high end of the interval loses more than this share of all images."""
        return self.high < -max_drop

    def images_needed(self, max_drop: float) -> int | None:
        """How many images would show that half of this drop is within it; None: no number would.

        From the share of images that just one of both networks has right: with many of those, a
        difference of two accuracies is known badly.
        """
        variance = (self.num_lost + self.num_gained + 1) / (self.num_images + 2)
        if self.spread is not None:
            variance = self.spread**2
        if max_drop <= 0:
            return None
        quantile = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / 2)
        return math.ceil(variance * (2 * quantile / max_drop) ** 2)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step of the repair did to the figure that decides whether its weights stay."""

    measure: Measure
    before: float
    """Of what the step began with."""
    after: float
    """Of what stays."""
    low: float
    """Of the gain, as a 95 % interval of paired samples; a gain is positive, whatever the
    measure."""
    high: float
    num_images: int
    """That decided, and that nothing was fitted to unless ``are_fitted`` says so."""
    is_taken: bool
    """Whether the step's weights stay; else those from before came back."""
    are_fitted: bool = False
    """Whether the step also learned from these images, since there are no others."""

    @property
    def outcome(self) -> Literal["improved", "unclear", "kept"]:
        """``unclear``: better, but it may be chance; ``kept``: the weights are as they were."""
        if not self.is_taken:
            return "kept"
        return "improved" if self.low > 0 else "unclear"


@dataclass(frozen=True, slots=True)
class ClassChange:
    """The images of one class: how many each network has right."""

    label: int
    num_images: int
    num_right_before: int
    num_right_after: int
    num_lost: int
    num_gained: int


@dataclass(frozen=True, slots=True)
class TaskWords:
    """What a task is called, and what is judged by it."""

    name: str
    quality: str
    """The figure that networks are judged by."""
    unit: str
    """``%`` for shares; empty for plain numbers."""
    is_higher_better: bool
    agreement: str = ""
    """How often two networks answer alike, as a title; empty where that is not asked."""
    agreement_means: str = ""
    """One sentence."""


@dataclass(frozen=True, slots=True)
class SecondWords:
    """A further figure of a task, shown beside the one that decides."""

    name: str
    unit: str
    """``%`` for shares, else what values are in."""


@dataclass(frozen=True, slots=True)
class SecondFigure:
    """That figure after each step, and how it differs from the original's on the same images."""

    name: str
    unit: str
    by_step: dict[str, AccuracyEstimate]
    changes: dict[str, AccuracyEstimate]


@dataclass(frozen=True, slots=True)
class OutputLikeness:
    """How one output of a network differs from the original's on the same images."""

    output: str
    error: AccuracyEstimate
    """Root mean square of the difference, as a share of that of the original's output about its
    mean image: 0 is equal, 1 is as bad as giving the same for every image."""
    cosine: AccuracyEstimate | None
    """Of the angle between both about that mean, on average; None where an image has one value."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much a network gives what the original gives, on images that nothing was fitted to."""

    outputs: tuple[OutputLikeness, ...]
    """Those of floating point, with one item for each image."""
    agreement: AccuracyEstimate | None
    """Share of images with the same answer; None where the main output holds no such thing."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The network after each step, held to the original where nothing else can judge it."""

    images: str
    """``test``, or ``selection`` where there are no others: they also chose which weights stay."""
    num_images: int
    main_output: str
    by_step: dict[str, Likeness]


@dataclass(frozen=True, slots=True)
class AnswerChanges:
    """Against the original, after each step; by class for the exported file, else the last step."""

    by_step: dict[str, PairedDifference]
    since_last: dict[str, PairedDifference]
    """By step: against the step before it instead."""
    by_class: tuple[ClassChange, ...]


@dataclass(frozen=True, slots=True)
class DropTrial:
    """One network that was made and tested on the selection images."""

    budget: str
    cost: float
    share: float
    """Of the original's cost."""
    difference: PairedDifference
    is_within: bool


@dataclass(frozen=True, slots=True)
class DropSearch:
    """How the smallest network within the drop was found."""

    metric: MetricName
    trials: tuple[DropTrial, ...]
    """In the order in which they were made."""
    chosen: int
    """Which of them."""


@dataclass(frozen=True, slots=True)
class DropGate:
    """Whether the result keeps to ``--max-drop``."""

    max_drop: float
    images: str
    """``selection`` where the network was searched for, else ``test``."""
    difference: PairedDifference
    search: DropSearch | None = None

    @property
    def passed(self) -> bool:
        """Whether even the low end of the interval is within the drop."""
        return self.difference.stays_within(self.max_drop)

    @property
    def undecided(self) -> DropTrial | None:
        """The smallest network that was within by its figure alone, and smaller than the result."""
        trials = self.search.trials if self.search else ()
        within = [t for t in trials if not t.is_within and t.difference.value >= -self.max_drop]
        smallest = min(within, key=lambda trial: trial.cost, default=None)
        if self.search is None or smallest is None:
            return None
        return smallest if smallest.cost < trials[self.search.chosen].cost else None

    @property
    def images_needed(self) -> int | None:
        """How many images would tell such a drop, for the network that is hardest to judge."""
        hardest = self.difference if self.undecided is None else self.undecided.difference
        return hardest.images_needed(self.max_drop)
