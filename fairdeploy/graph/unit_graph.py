"""The unit graph: what can be removed, where each unit lives, and what has to stay and why.

A *unit* is the set of all indices, in every dimension of every tensor, that must go together.
Units with the same membership signature form a *group*; so do blocks of units from which the same
number must go. Units are numbered from 0; ``KEPT`` (-1) marks an index that never goes. See
``propagation`` for how the numbers come about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.graph.capture.model_inputs import ModelInputs
from fairdeploy.graph.capture.model_outputs import ModelOutputs
from fairdeploy.graph.walk.label_grids import length_of
from fairdeploy.records.method import AttentionOption
from fairdeploy.tasks.base import Task

KEPT = -1

Role = Literal["produces", "consumes"]
UnitIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """One dimension of one tensor in which units of a group hold the same number of indices.

    A ``produces`` member makes the unit's output (weight rows, bias, norm affine and statistics);
    a ``consumes`` member reads it (the contracted dimension of a later weight).
    """

    tensor: str
    """Name of the parameter or buffer in the graph module, the user's own dotted name."""
    dim: int
    role: Role
    units: NDArray[np.int64]
    """Shape [U]: which of the group's units, counted from 0 block after block."""
    positions: NDArray[np.int64]
    """Shape [U, m]: the m indices of each of them."""


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are alike: "a layer" for the allocation rule.

    Most groups have one block, whose units have the same membership signature. A *balanced* group
    has several, from each of which the same number must go, though not the same index: attention
    heads, groups of a convolution, equal pieces of a split.
    """

    name: str
    blocks: UnitIds
    """Global unit numbers, shape [B, N], within a block in the order of their first index."""
    members: tuple[Member, ...]
    is_summed: bool = False
    """Whether outputs of several layers are added up in it: a residual stream."""
    is_branch: bool = False
    """Whether the only unit is a residual branch, which may go."""
    branch_tensors: tuple[str, ...] = ()
    """All tensors of that branch."""

    @property
    def units(self) -> UnitIds:
        """Global numbers of all units, block after block, shape [B * N]."""
        return self.blocks.reshape(-1)

    @property
    def size(self) -> int:
        """How many can go from each block, N."""
        return int(self.blocks.shape[1])

    @property
    def num_blocks(self) -> int:
        """Number of blocks, B."""
        return int(self.blocks.shape[0])

    @property
    def most_removed(self) -> int:
        """How many may go from each block: all but one, and a branch as a whole."""
        return self.size if self.is_branch else self.size - 1


@dataclass(frozen=True, slots=True)
class Branch:
    """A stretch of the network that only leads to one operand of a sum, and may go as a whole.

    Then the sum gives back its other operand. Names are those of nodes. Branches may be nested.
    """

    name: str
    """Path of the module that holds its layers."""
    unit: int
    group: int
    """Index of the group whose only unit it is."""
    total: str
    """The sum."""
    value: str
    """The operand that goes."""
    shortcut: str
    """The operand that stays."""
    nodes: frozenset[str]
    """What is computed or fetched for ``value`` alone."""
    tensors: tuple[str, ...]
    """Parameters and buffers that go with it."""
    is_first: bool
    """Whether no other sum of this shape comes before: it makes the stream, and plans keep it."""


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """Indices that would be a group, had an operation not tied them to something fixed."""

    name: str
    size: int
    num_params: int
    reason: str
    tensors: tuple[str, ...]
    op: str = ""
    """The operation that holds them."""
    module_path: str = ""
    """Where it is called; empty for the root."""


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


def group_of_unit(groups: Sequence[Group], num_units: int) -> UnitIds:
    """The index of each unit's group, shape [num_units]; every unit has one."""
    owner = np.zeros(num_units, dtype=np.int64)
    for index, group in enumerate(groups):
        owner[group.units] = index
    return owner


CostDim = tuple[int, tuple[tuple[int, float], ...]]
"""The fixed length, and (group index, multiplicity) pairs."""


@dataclass(frozen=True, slots=True)
class Coupled:
    """Norm ``node`` takes statistics over dimensions ``dims`` of its input, which may shrink."""

    node: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CostTerm:
    """``coefficient`` times the product of the kept lengths of some dimensions.

    A dimension's kept length is ``fixed + sum(multiplicity * kept units)`` over groups.
    """

    coefficient: float
    dims: tuple[CostDim, ...]


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
    pairs: UnitIds
    """Shape [num_pairs, 2]. An index that goes if either of two units goes (a channel within a head
    and the head) has the number ``num_units + row``."""
    tensor_units: Mapping[str, tuple[UnitIds, ...]]
    """Per parameter or buffer name, per dimension: the unit of each index, or ``KEPT``. A dimension
    whose indices belong to other units in each block of another dimension has an array with an axis
    per dimension instead of a vector; see ``label_grids``."""
    value_units: Mapping[str, tuple[UnitIds, ...]]
    """Per node name of ``module.graph`` with a tensor result, the same. Dynamic dimensions (batch)
    have the length they had at capture and are ``KEPT``."""
    contractions: tuple[Contracted, ...]
    """Where activations are summed away: what the proof sets to zero in the original."""
    cost_terms: Mapping[str, tuple[CostTerm, ...]]
    """``params``, ``macs`` (per image), ``size`` (bytes): each cost is the sum of its terms."""
    attention: AttentionOption
    has_dynamic_batch: bool
    inputs: ModelInputs
    outputs: ModelOutputs
    allow_norm_coupled: bool = False
    """Whether channels may go that a layer norm takes its statistics over."""
    coupled_norms: tuple[Coupled, ...] = ()
    """Norms whose statistics change when units go: there the surgery is not exact. Empty unless
    that was allowed."""
    branches: tuple[Branch, ...] = ()
    """Residual branches, in graph order; empty unless they were asked for."""

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the network was captured with, one per input, batch first."""
        return self.inputs.example

    def for_task(self, task: Task) -> UnitGraph:
        """The same with a main output that is for ``task``."""
        return replace(self, outputs=replace(self.outputs, task=task))

    @property
    def device(self) -> torch.device:
        """Where the parameters lie; a network without any runs on the CPU."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def removed_mask(self, removed: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        """Boolean mask over all units, shape [num_units].

        Args:
            removed: By group name, places in ``Group.units``.
        """
        mask = np.zeros(self.num_units, dtype=np.bool_)
        for group in self.groups:
            mask[group.units[list(removed.get(group.name, ()))]] = True
        return mask

    def branches_gone(self, removed: NDArray[np.bool_]) -> tuple[Branch, ...]:
        """The branches that go as a whole; ``removed`` is boolean, shape [num_units]."""
        return tuple(branch for branch in self.branches if removed[branch.unit])

    def shape_of(self, node: str) -> tuple[int, ...]:
        """Shape of a node's value at capture; () if it is no tensor."""
        return tuple(
            length_of(units, dim) for dim, units in enumerate(self.value_units.get(node, ()))
        )

    def staying(self, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether an index with this number stays, shape [num_units + num_pairs + 1].

        Made to be indexed with ``tensor_units`` and ``value_units``: the last entry is that of
        ``KEPT`` (-1).
        """
        stays = ~removed
        both = stays[self.pairs].all(axis=1)
        return np.concatenate([stays, both, np.ones(1, dtype=np.bool_)])

    def owners(self, units: UnitIds) -> tuple[UnitIds, ...]:
        """The one or two units of each index: arrays like ``units``, else ``KEPT``."""
        if not len(self.pairs):
            return (units,)
        table = np.full((self.num_units + len(self.pairs) + 1, 2), KEPT, dtype=np.int64)
        table[: self.num_units, 0] = np.arange(self.num_units)
        table[self.num_units : -1] = self.pairs
        return (table[units, 0], table[units, 1])
