"""Why an original's accuracy says nothing, and what was tried to find the cause."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreparationTrial:
    """The original on a few labelled images that were prepared, or numbered, in another way."""

    options: str
    """As they would be typed; empty for the way of this run."""
    accuracy: float
    norm_distance: float | None
    """How far what reaches the first norm lies from its running mean, in standard deviations."""


@dataclass(frozen=True, slots=True)
class NotJudged:
    """Labels and answers of the original do not belong together, so accuracy means nothing."""

    reason: str
    remedy: str
    accuracy: float
    num_images: int
    trials: tuple[PreparationTrial, ...] = ()
    """The best first; the way of this run among them."""

    @property
    def text(self) -> str:
        """Reason and remedy in one line."""
        return f"{self.reason}; {self.remedy}"
