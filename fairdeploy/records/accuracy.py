"""How a network's answers differ from the original's on the same images."""

from __future__ import annotations

from dataclasses import dataclass

from fairdeploy.records.allocation import MetricName


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

    def stays_within(self, max_drop: float) -> bool:
        """Whether even the low end of the interval loses at most this share of all images."""
        return self.low >= -max_drop


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
class AnswerChanges:
    """Against the original, after each step; by class for the exported file, else the last step."""

    by_step: dict[str, PairedDifference]
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
