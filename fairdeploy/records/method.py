"""What decides which units go: a signal proposes, another protects, and a rule shares it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

SignalName = Literal[
    "wasserstein",
    "l1",
    "l2",
    "fpgm",
    "bn-scale",
    "taylor",
    "activation-mean",
    "apoz",
    "hrank",
    "reconstruction",
    "random",
]
"""What says that a unit matters; see ``scoring.signals``."""
ProtectName = Literal[
    "taylor",
    "wasserstein",
    "l1",
    "l2",
    "fpgm",
    "bn-scale",
    "activation-mean",
    "apoz",
    "hrank",
    "random",
    "none",
]
"""``none``: the removal signal protects too."""
AllocationRule = Literal["tod", "uniform", "global"]
"""How much goes from each group; see ``allocation.shared_knob`` for all but ``tod``."""

SIGNALS: tuple[SignalName, ...] = get_args(SignalName)
PROTECTIONS: tuple[ProtectName, ...] = get_args(ProtectName)
ALLOCATION_RULES: tuple[AllocationRule, ...] = get_args(AllocationRule)

KNOBS: dict[AllocationRule, str] = {
    "tod": "tolerance",
    "uniform": "share",
    "global": "threshold",
}
"""What each rule turns until the budgets are met."""


@dataclass(frozen=True, slots=True)
class PruningMethod:
    """The three choices; the defaults are FAIR-Pruner's (arXiv 2508.02291)."""

    signal: SignalName = "wasserstein"
    """Takes the place of the U-Score: low goes first."""
    protect: ProtectName = "taylor"
    """Takes the place of the R-Score: high stays, and comes back first."""
    allocation: AllocationRule = "tod"

    @property
    def is_self_protected(self) -> bool:
        """Whether one signal is on both sides: then all ToD curves are the same."""
        return self.protect in ("none", self.signal)


AttentionOption = Literal["heads", "channels", "both", "none"]
"""What goes from attention: whole heads, channels within heads, both, or nothing."""
ATTENTION_OPTIONS: tuple[AttentionOption, ...] = ("heads", "channels", "both", "none")
_Choice = TypeVar("_Choice")


def choice_of(value: object, choices: tuple[_Choice, ...]) -> _Choice | None:
    """The choice that ``value`` spells, or None."""
    return next((choice for choice in choices if choice == value), None)
