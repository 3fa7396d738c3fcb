"""What the user keeps from being removed, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What the user keeps from being removed, on top of what the network keeps by itself.

    A glob matches a group through the modules that make its units; see
    ``allocation.module_globs``. Where several values hold for a group, the strictest counts.
    """

    include: tuple[str, ...] = ()
    """Globs; if any is given, only groups that they cover can shrink."""
    exclude: tuple[str, ...] = ()
    """Globs; every group that one of them touches stays whole."""
    max_prune: tuple[tuple[str, float], ...] = ()
    """Globs, and the largest share of a group's units that may go, 0 to 1."""
    min_units: tuple[tuple[str, int], ...] = ()
    """Globs, and how many units a group keeps at least."""
    round_to: int | None = None
    """Channel counts become multiples of this; None: as the target likes them."""


@dataclass(frozen=True, slots=True)
class GroupRemark:
    """What a restriction means for one group, or why the group could not honour it."""

    group: str
    text: str


@dataclass(frozen=True, slots=True)
class RestrictionOutcome:
    """What came of one restriction in a plan."""

    option: str
    """As typed: ``--exclude 'layer4.*'``."""
    num_groups: int
    """Removable groups that it applies to."""
    num_held: int
    """Of these: groups that it kept from losing more, in this plan."""
    exceptions: tuple[GroupRemark, ...] = ()
    """Groups that could not honour it, and why."""
    notes: tuple[GroupRemark, ...] = ()
    """What it means for groups where that is not plain."""
