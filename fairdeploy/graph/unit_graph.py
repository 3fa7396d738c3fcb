"""The unit graph: what can be removed, where each unit lives, and what has to stay and why.

A *unit* is the set of all indices, in every dimension of every tensor, that must go together.
Units with the same membership signature form a *group*. Units are numbered from 0; ``KEPT`` (-1)
marks an index that never goes. See ``propagation`` for how the numbers come about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import fx

KEPT = -1

Role = Literal["produces", "consumes"]
UnitIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """One dimension of one tensor in which every unit of a group holds the same number of indices.

    A ``produces`` member makes the unit's output (weight rows, bias, norm affine and statistics);
    a ``consumes`` member reads it (the contracted dimension of a later weight).
    """

    tensor: str
    """Name of the parameter or buffer in the graph module, the user's own dotted name."""
    dim: int
    role: Role
    positions: NDArray[np.int64]
    """Shape [N, m]: the m indices of each of the group's N units."""


@dataclass(frozen=True, slots=True)
class Group:
    """Units with the same membership signature: "a layer" for the allocation rule."""

    name: str
    units: UnitIds
    """Global unit numbers, shape [N], in the order of their first index."""
    members: tuple[Member, ...]
    is_summed: bool = False
    """Whether outputs of several layers are added up in it: a residual stream."""

    @property
    def size(self) -> int:
        """Number of units, N."""
        return len(self.units)


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """Indices that would be a group, had an operation not tied them to something fixed."""

    name: str
    size: int
    num_params: int
    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """One place in the network that kept something from being removable."""

    op: str
    module_path: str
    reason: str
    source_line: str
    is_unknown_op: bool
    num_units: int


@dataclass(frozen=True, slots=True)
class Contracted:
    """Node ``node`` sums its argument ``argument`` (both node names) over dimension ``dim``."""

    node: str
    argument: str
    dim: int


@dataclass(frozen=True, slots=True)
class CostTerm:
    """``coefficient`` times the product of the kept lengths of some dimensions.

    A dimension's kept length is ``fixed + sum(multiplicity * kept units)`` over groups.
    """

    coefficient: float
    dims: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """Per dimension: the fixed length, and (group index, multiplicity) pairs."""


@dataclass(frozen=True, slots=True)
class UnitGraph:
    """The whole network as units; made once, read by scoring, allocation, surgery and recovery."""

    module: fx.GraphModule
    """Functional ATen graph (no in-place ops) in eval mode; parameters and buffers are ``get_attr``
    nodes whose targets are the user's dotted names. Its tensors are shared with the user's model:
    read only."""
    groups: tuple[Group, ...]
    frozen_groups: tuple[FrozenGroup, ...]
    freezes: tuple[Freeze, ...]
    num_units: int
    tensor_units: Mapping[str, tuple[UnitIds, ...]]
    """Per parameter or buffer name, per dimension: the unit of each index, or ``KEPT``."""
    value_units: Mapping[str, tuple[UnitIds, ...]]
    """Per node name of ``module.graph`` with a tensor result, the same. Dynamic dimensions (batch)
    have the length they had at capture and are ``KEPT``."""
    contractions: tuple[Contracted, ...]
    """Where activations are summed away: what the proof sets to zero in the original."""
    cost_terms: Mapping[str, tuple[CostTerm, ...]]
    """``params``, ``macs`` (per image), ``size`` (bytes): each cost is the sum of its terms."""
    has_dynamic_batch: bool
    example_inputs: tuple[object, ...]

    def removed_mask(self, removed: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        """Boolean mask over all units, shape [num_units], from local indices by group name."""
        mask = np.zeros(self.num_units, dtype=np.bool_)
        for group in self.groups:
            mask[group.units[list(removed.get(group.name, ()))]] = True
        return mask
