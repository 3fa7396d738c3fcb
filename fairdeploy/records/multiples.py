"""Which channel counts are fast on the target, and what rounding to them did to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class WidthTime:
    """What a small network takes whose middle has this many channels."""

    channels: int
    ms: float
    """Lower quartile of its calls."""


@dataclass(frozen=True, slots=True)
class MultipleCost:
    """Time per channel of counts that are multiples of ``multiple``; 1 for multiples of 32.

    With the 95 % interval over the sweeps.
    """

    multiple: int
    relative_cost: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """The channel multiple that sweeps on the target chose; ``rows`` are their medians."""

    multiple: int
    rows: tuple[WidthTime, ...]
    costs: tuple[MultipleCost, ...]
    is_certain: bool
    """Whether the sweeps could tell it from its neighbours; else it is the usual one."""
    is_cached: bool
    seconds: float
    """That the sweep took, whenever that was."""


@dataclass(frozen=True, slots=True)
class GroupRounding:
    """Units of one group that stay, and that would stay if any count were as good."""

    name: str
    units: int
    kept: int
    kept_unrounded: int


@dataclass(frozen=True, slots=True)
class Rounding:
    """What rounding to a channel multiple cost and gained."""

    multiple: int
    source: Literal["measured", "profile", "--round-to", "not measured", "budget"]
    choice: MultipleChoice | None
    """The sweep, where there was one."""
    groups: tuple[GroupRounding, ...]
    costs: Mapping[str, float]
    """Of the plan, by metric."""
    costs_unrounded: Mapping[str, float]
    """Of a plan for the same budgets with any counts."""
    r_mass: float
    """Sum of the R-Scores that the plan removes."""
    r_mass_unrounded: float
