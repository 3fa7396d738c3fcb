"""From labels to units and groups: ``build_unit_graph`` is the way in.

Units are labels with one root that own part of some parameter; groups are units with the same
membership signature (same tensors, same dimensions, equally many indices).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from fairdeploy.graph.capture import CapturedGraph, capture
from fairdeploy.graph.cost_terms import build_cost_terms
from fairdeploy.graph.freezes import collect_freezes, frozen_groups
from fairdeploy.graph.labels import FIXED, NO_REASON, Labels
from fairdeploy.graph.propagation import Propagation
from fairdeploy.graph.rules import rule_of
from fairdeploy.graph.unit_graph import KEPT, Contracted, Group, Member, Role, UnitGraph


@dataclass(frozen=True, slots=True)
class _Entries:
    """One row for each index of each dimension of each tensor: who sits where."""

    roots: Labels
    dims: Labels
    positions: Labels
    places: tuple[tuple[str, int], ...]
    """Tensor name and dimension for each number in ``dims``."""


def build_unit_graph(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> UnitGraph:
    """Capture ``module`` and find out what can be removed from it.

    Args:
        module: In eval mode; not changed, and its tensors are shared.
        example_inputs: Batches of ``capture.EXAMPLE_BATCH`` images.

    Raises:
        ModelError: ``torch.export`` cannot trace the model.
    """
    return unit_graph_from_capture(capture(module, example_inputs))


def unit_graph_from_capture(captured: CapturedGraph) -> UnitGraph:
    """Label a captured graph and collect units, groups and costs."""
    walk = Propagation(captured.module)
    walk.run(rule_of)
    entries = _entries(walk)
    live = walk.store.reason_of(entries.roots) == NO_REASON
    groups, unit_of_root = _groups(walk, entries, live)
    tensor_units = {
        name: tuple(unit_of_root[walk.store.find(labels)] for labels in dims)
        for name, dims in walk.tensor_dims.items()
    }
    value_units = {
        node.name: tuple(unit_of_root[walk.store.find(labels)] for labels in value)
        for node, value in walk.values.items()
        if isinstance(value, tuple)
    }
    owner = np.zeros(sum(group.size for group in groups), dtype=np.int64)
    for index, group in enumerate(groups):
        owner[group.units] = index
    batch = len(captured.example_inputs[0])
    return UnitGraph(
        module=captured.module,
        groups=groups,
        frozen_groups=frozen_groups(walk, entries.roots, entries.dims, entries.places),
        freezes=collect_freezes(walk),
        num_units=len(owner),
        tensor_units=tensor_units,
        value_units=value_units,
        contractions=tuple(
            Contracted(point.node.name, point.argument.name, point.dim)
            for point in walk.contractions
        ),
        cost_terms=build_cost_terms(walk, tensor_units, value_units, owner, batch),
        has_dynamic_batch=captured.has_dynamic_batch,
        example_inputs=captured.example_inputs,
    )


def _entries(walk: Propagation) -> _Entries:
    roots: list[Labels] = []
    numbers: list[Labels] = []
    positions: list[Labels] = []
    places: list[tuple[str, int]] = []
    for name, dims in walk.tensor_dims.items():
        for dim, labels in enumerate(dims):
            where = np.flatnonzero(labels != FIXED)
            roots.append(walk.store.find(labels[where]))
            numbers.append(np.full(len(where), len(places), dtype=np.int64))
            positions.append(where)
            places.append((name, dim))
    if not places:
        empty = np.zeros(0, dtype=np.int64)
        return _Entries(empty, empty, empty, ())
    return _Entries(
        np.concatenate(roots), np.concatenate(numbers), np.concatenate(positions), tuple(places)
    )


def signatures(roots: Labels, dims: Labels, num_dims: int) -> tuple[Labels, Labels]:
    """Distinct roots, and a number that is equal for roots with the same membership.

    A membership is how many indices a root has in each dimension: the sum of one random 64-bit
    number per index identifies it (a chance of about 1e-13 to confuse two among a thousand).
    """
    random = np.random.default_rng(0).integers(1, 2**63, size=num_dims, dtype=np.uint64)
    distinct, inverse = np.unique(roots, return_inverse=True)
    sums = np.zeros(len(distinct), dtype=np.uint64)
    np.add.at(sums, inverse, random[dims])
    return distinct, sums.view(np.int64)


def _groups(
    walk: Propagation, entries: _Entries, live: np.ndarray
) -> tuple[tuple[Group, ...], Labels]:
    """Groups of live units that own part of a parameter, and each root's unit number."""
    parameters = {name for name, _ in walk.module.named_parameters(remove_duplicate=False)}
    is_parameter = np.array([name in parameters for name, _ in entries.places], dtype=bool)
    owners = (
        np.unique(entries.roots[is_parameter[entries.dims]])
        if len(entries.dims)
        else (entries.roots)
    )
    keep = live & np.isin(entries.roots, owners)
    roots, dims, positions = entries.roots[keep], entries.dims[keep], entries.positions[keep]
    distinct, sums = signatures(roots, dims, len(entries.places))
    _, first, inverse = np.unique(sums, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # groups in the order of their first root
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group_of = rank[inverse]
    unit_order = np.lexsort((distinct, group_of))
    unit_of_root = np.full(len(walk.store), KEPT, dtype=np.int64)
    unit_of_root[distinct[unit_order]] = np.arange(len(distinct))
    units = unit_of_root[roots]
    owner_of_row = group_of[np.searchsorted(distinct, roots)]
    names: dict[str, int] = {}
    groups = []
    sizes = np.bincount(group_of, minlength=len(order))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    summed = walk.store.find(np.unique(np.concatenate([entries.roots[:0], *walk.summed])))
    by_group = np.lexsort((positions, units, dims, owner_of_row))
    bounds = np.searchsorted(owner_of_row[by_group], np.arange(len(order) + 1))
    for index in range(len(order)):
        rows = by_group[bounds[index] : bounds[index + 1]]
        members = _members(walk, entries, dims[rows], positions[rows], int(sizes[index]))
        groups.append(
            Group(
                name=_unique_name(members[0].tensor, names),
                units=np.arange(starts[index], starts[index + 1], dtype=np.int64),
                members=members,
                is_summed=bool(np.isin(distinct[group_of == index], summed).any()),
            )
        )
    return tuple(groups), unit_of_root


def _members(
    walk: Propagation, entries: _Entries, dims: Labels, positions: Labels, num_units: int
) -> tuple[Member, ...]:
    """Members of one group from its rows, which are sorted by dimension, unit and position."""
    members = []
    for number in np.unique(dims):
        name, dim = entries.places[number]
        places = positions[dims == number].reshape(num_units, -1)
        role: Role = "consumes" if (name, dim) in walk.consumed else "produces"
        members.append(Member(name, dim, role, places))
    # the first member names the group: best the weight of the layer that makes it
    return tuple(
        sorted(members, key=lambda m: (m.role == "consumes", not m.tensor.endswith("weight")))
    )


def _unique_name(tensor: str, used: dict[str, int]) -> str:
    name = tensor.removesuffix(".weight")
    used[name] = used.get(name, 0) + 1
    return name if used[name] == 1 else f"{name}#{used[name]}"
