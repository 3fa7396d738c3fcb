"""Plans beside the tolerance path, for a budget that lies in a step of the device's time.

A detour starts from the measured plan whose time is nearest to the aim, and changes it by as much
predicted time as is missing (see ``nearby``). It leaves the groups alone between which the step was
seen. What each detour takes tells how much of the predicted change is real; where the time jumps
over the budget again, the groups that changed are left alone from then on, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fairdeploy.allocation.measured_plans import (
    AIM,
    STEEP,
    MeasuredPlan,
    changes,
    differing_groups,
    is_outdone,
    is_step,
)
from fairdeploy.records import Allocation

Nearby = Callable[[Allocation, float, frozenset[str]], Allocation | None]
"""The plan near another one for a predicted share of the original's latency, which leaves the named
groups as they are; None if there is none."""

# Bounds on how the time changes beside the model's word; flat pieces of a staircase, which small
# changes meet, would send the next detour too far.
_LEAST_STEEP, _MOST_STEEP = 0.5, STEEP
# Logarithm of the smallest change that the model is trusted with.
_LEAST_CHANGE = 0.02


@dataclass(slots=True)
class Detours:
    """Proposes plans; told of what they took, it learns."""

    nearby: Nearby
    left_alone: frozenset[str] = frozenset()
    is_open: bool = False
    _seen: tuple[float, float] = (0.0, 0.0)
    """Logarithms of the last detour's changes: predicted, and measured."""
    _anchor: MeasuredPlan | None = field(default=None, repr=False)

    def open(self, below: MeasuredPlan, above: MeasuredPlan | None) -> None:
        """Leave the path.

        Args:
            below: The best plan.
            above: The plan on the other side of a step: groups in which these two differ stay as
                they are. None where no step was seen.
        """
        self.is_open = True
        if above and below.allocation and above.allocation:
            self.left_alone |= differing_groups(below.allocation, above.allocation)

    def close(self) -> None:
        """Go back to the path; the next detour starts anew."""
        self.is_open, self.left_alone = False, frozenset()

    def propose(self, plans: Sequence[MeasuredPlan]) -> Allocation | None:
        """A plan that was not measured and should be close to the aim; None if there is none."""
        self._anchor = None
        known = [plan.allocation.removed for plan in plans if plan.allocation]
        fitting = [plan for plan in plans if plan.fits]
        anchors = sorted(plans, key=lambda plan: abs(math.log(AIM / plan.used)))
        for anchor in [plan for plan in anchors if plan.allocation]:
            assert anchor.allocation is not None
            share = anchor.proxy * math.exp(self._predicted(math.log(AIM / anchor.used)))
            found = self.nearby(anchor.allocation, share, self.left_alone)
            if found is None or found.removed in known or is_outdone(found, fitting):
                continue
            self._anchor = anchor
            return found
        return None

    @property
    def has_proposed(self) -> bool:
        """Whether the plan that is measured next is a detour."""
        return self._anchor is not None

    def learn(self, found: MeasuredPlan) -> None:
        """Take in what the plan took that was proposed last; others tell nothing."""
        anchor, self._anchor = self._anchor, None
        if anchor is None:
            return
        assert anchor.allocation is not None
        assert found.allocation is not None
        if is_step(anchor, found):
            self.left_alone |= differing_groups(anchor.allocation, found.allocation)
            return
        self._seen = changes(anchor, found)

    def _predicted(self, wanted: float) -> float:
        """The predicted change that should bring the wanted one, both as logarithms.

        The model's word weighs as much as what was seen of a change of the same size.
        """
        predicted, measured = self._seen
        word = math.copysign(max(abs(wanted), _LEAST_CHANGE), predicted)
        steepness = (measured + word) / (predicted + word)
        return wanted / min(max(steepness, _LEAST_STEEP), _MOST_STEEP)
