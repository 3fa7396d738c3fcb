"""From the labels of one walk to numbered units, groups and their members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.capture.capture import CapturedGraph
from fairdeploy.graph.unit_graph import KEPT, Group, Member, Role
from fairdeploy.graph.walk.balance import Components, find_components
from fairdeploy.graph.walk.label_grids import rows_of
from fairdeploy.graph.walk.labels import FIXED, NO_REASON, Labels
from fairdeploy.graph.walk.propagation import AttentionUnits, Propagation
from fairdeploy.graph.walk.rules import rule_of

MAX_WALKS = 8


@dataclass(frozen=True, slots=True)
class Labelled:
    """A finished walk, and what it says about units."""

    walk: Propagation
    entries: Entries
    """Of all labels, frozen ones too."""
    removable: Entries
    """Of those that can go."""
    distinct: Labels
    """Their roots, each once, ascending."""
    signatures: Labels
    """Of each of ``distinct``: equal for roots with the same membership."""
    components: Components


def label(
    captured: CapturedGraph, attention: AttentionUnits, *, allow_norm_coupled: bool = False
) -> Labelled:
    """Walk through the graph, again if some blocks cannot be balanced, until all fit."""
    tied: frozenset[str] = frozenset()
    for number in range(MAX_WALKS):
        walk = Propagation(captured.module, attention, tied, allow_norm_coupled)
        walk.run(rule_of)
        entries = collect_entries(walk)
        rows = removable(walk, entries)
        distinct, sums = signatures(rows)
        roots = [
            walk.store.find(balance.rows.reshape(-1)).reshape(balance.rows.shape)
            for balance in walk.balances
        ]
        signature_of = dict(zip(distinct.tolist(), sums.tolist(), strict=True))
        components = find_components(walk.balances, roots, signature_of)
        if not components.misfits:
            return Labelled(walk, entries, rows, distinct, sums, components)
        is_last_but_one = number == MAX_WALKS - 2
        required = {balance.node for balance in walk.balances if balance.is_required}
        tied |= required if is_last_but_one else components.misfits
    raise AssertionError("tied blocks cannot be out of balance")


def number_groups(
    labelled: Labelled, first_unit: int, used_names: dict[str, int]
) -> tuple[tuple[Group, ...], Labels]:
    """Groups with their units numbered from ``first_unit``, and each root's unit number."""
    walk, entries, distinct = labelled.walk, labelled.removable, labelled.distinct
    group_of, component_of = _group_of(distinct, labelled.signatures, labelled.components)
    number_of_root = np.full(len(walk.store), KEPT, dtype=np.int64)
    local_of_root = np.zeros(len(walk.store), dtype=np.int64)
    rows_by_group = _split(group_of[np.searchsorted(distinct, entries.roots)])
    summed = walk.store.find(np.unique(np.concatenate([entries.roots[:0], *walk.summed])))
    is_summed = np.isin(distinct, summed)
    groups = []
    for places, rows in zip(_split(group_of), rows_by_group, strict=True):
        component = component_of[places[0]]
        blocks = distinct[places][None]
        if component >= 0:
            blocks = labelled.components.blocks[component]
        local_of_root[blocks.reshape(-1)] = np.arange(blocks.size)
        numbers = first_unit + np.arange(blocks.size, dtype=np.int64)
        number_of_root[blocks.reshape(-1)] = numbers
        first_unit += blocks.size
        # the first member names the group: best the weight of the layer that makes it
        members = sorted(
            _members(walk, entries, rows, local_of_root),
            key=lambda member: (member.role == "consumes", not member.tensor.endswith("weight")),
        )
        groups.append(
            Group(
                name=unique_name(members[0].tensor.removesuffix(".weight"), used_names),
                blocks=numbers.reshape(blocks.shape),
                members=tuple(members),
                is_summed=bool(is_summed[places].any()),
            )
        )
    return tuple(groups), number_of_root


def _group_of(distinct: Labels, sums: Labels, components: Components) -> tuple[Labels, Labels]:
    """The group and the component (or -1) of each root; groups in the order of their first root."""
    _, keys = np.unique(sums, return_inverse=True)
    keys = keys.astype(np.int64)
    component_of = np.full(len(distinct), -1, dtype=np.int64)
    for number, blocks in enumerate(components.blocks):
        component_of[np.searchsorted(distinct, blocks.reshape(-1))] = number
    keys = np.where(component_of >= 0, len(distinct) + component_of, keys)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ranked: Labels = rank[inverse]
    return ranked, component_of


def _split(group_of: Labels) -> list[Labels]:
    """Places of each group, ascending."""
    order = np.argsort(group_of, kind="stable")
    if not len(group_of):
        return []
    return np.split(order, np.cumsum(np.bincount(group_of))[:-1])


def _members(
    walk: Propagation, entries: Entries, rows: Labels, local_of: Labels
) -> Iterator[Member]:
    """Members of one group from its rows, by dimension; alike units share a member."""
    units, dims, positions = (
        local_of[entries.roots[rows]],
        entries.dims[rows],
        entries.positions[rows],
    )
    order = np.lexsort((positions, units, dims))
    units, dims, positions = units[order], dims[order], positions[order]
    for number in np.unique(dims):
        name, dim = entries.places[number]
        role: Role = "consumes" if (name, dim) in walk.consumed else "produces"
        here = dims == number
        owners, starts, counts = np.unique(units[here], return_index=True, return_counts=True)
        places = positions[here]
        for count in np.unique(counts):
            chosen = counts == count
            yield Member(
                name, dim, role, owners[chosen], places[starts[chosen][:, None] + np.arange(count)]
            )


def unique_name(name: str, used: dict[str, int]) -> str:
    """The name, numbered if it was used before (changes ``used``)."""
    used[name] = used.get(name, 0) + 1
    return name if used[name] == 1 else f"{name}#{used[name]}"


@dataclass(frozen=True, slots=True)
class Entries:
    """Rows of roots with their places."""

    roots: Labels
    dims: Labels
    positions: Labels
    places: tuple[tuple[str, int], ...]
    """Tensor name and dimension for each number in ``dims``."""

    def where(self, chosen: NDArray[np.bool_]) -> Entries:
        """Some of the rows."""
        return Entries(self.roots[chosen], self.dims[chosen], self.positions[chosen], self.places)


def collect_entries(walk: Propagation) -> Entries:
    """All rows, in the order of tensors, dimensions and positions."""
    roots: list[Labels] = []
    numbers: list[Labels] = []
    positions: list[Labels] = []
    places: list[tuple[str, int]] = []
    for name, dims in walk.tensor_dims.items():
        for dim, labels in enumerate(dims):
            found, where = _located(walk, labels, dim)
            roots.append(found)
            positions.append(where)
            numbers.append(np.full(len(where), len(places), dtype=np.int64))
            places.append((name, dim))
    empty = np.zeros(0, dtype=np.int64)
    return Entries(
        np.concatenate([empty, *roots]),
        np.concatenate([empty, *numbers]),
        np.concatenate([empty, *positions]),
        tuple(places),
    )


def _located(walk: Propagation, labels: Labels, dim: int) -> tuple[Labels, Labels]:
    """Roots and positions of the labels of one dimension; a grid tells each pair once."""
    if labels.ndim == 1:
        where = np.flatnonzero(labels != FIXED)
        return walk.store.find(labels[where]), where
    rows = rows_of(labels, dim)
    roots = walk.store.find(rows.reshape(-1))
    pairs = np.stack([np.tile(np.arange(rows.shape[1]), len(rows)), roots], axis=1)
    pairs = np.unique(pairs[rows.reshape(-1) != FIXED], axis=0)
    return np.ascontiguousarray(pairs[:, 1]), np.ascontiguousarray(pairs[:, 0])


def removable(walk: Propagation, entries: Entries) -> Entries:
    """Rows of live roots that a parameter makes.

    What is only read, say a coordinate of a table that a layer is given, is data and stays.
    """
    parameters = {name for name, _ in walk.module.named_parameters(remove_duplicate=False)}
    is_parameter = np.array(
        [place[0] in parameters and place not in walk.consumed for place in entries.places],
        dtype=bool,
    )
    owners = np.unique(entries.roots[is_parameter[entries.dims] if len(entries.dims) else []])
    live = walk.store.reason_of(entries.roots) == NO_REASON
    return entries.where(live & np.isin(entries.roots, owners))


def signatures(entries: Entries) -> tuple[Labels, Labels]:
    """Distinct roots, and a number that is equal for roots with the same membership.

    A membership is how many indices a root has in each dimension: the sum of one random 64-bit
    number per index identifies it (a chance of about 1e-13 to confuse two among a thousand).
    """
    rng = np.random.default_rng(0)
    random = rng.integers(1, 2**63, size=max(len(entries.places), 1), dtype=np.uint64)
    distinct, inverse = np.unique(entries.roots, return_inverse=True)
    sums = np.zeros(len(distinct), dtype=np.uint64)
    np.add.at(sums, inverse, random[entries.dims])
    return distinct, sums.view(np.int64)
