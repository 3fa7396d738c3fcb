"""From the labels of one walk to numbered units, groups and their members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairdeploy.graph.capture.capture import CapturedGraph
from fairdeploy.graph.unit_graph import KEPT, Group, Member, Role
from fairdeploy.graph.walk.balance import Components, find_components
from fairdeploy.graph.walk.entries import Entries, collect_entries, removable, signatures
from fairdeploy.graph.walk.labels import Labels
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
