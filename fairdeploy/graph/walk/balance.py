"""Balanced blocks: sets of units from which the same number must go, though not the same index.

The walk records where an operation needs equal counts: groups of a convolution, attention heads,
layers of an LSTM, equal pieces of a split. Here those requests become *components*: blocks that are
linked by requests, each block holding the same number of units. Units of one block must be alike
(same membership signature), so that which of them goes makes no difference to the cost; a request
whose rows mix several kinds is cut into one request per kind.

A request that does not fit (rows that overlap in part, rows with frozen units, unequal kinds) is
named, and the walk is done again with the rows of that operation tied index by index, which always
works.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairdeploy.graph.walk.labels import Labels


@dataclass(frozen=True, slots=True)
class Balance:
    """Blocks of indices from which the same number must go, though not the same index."""

    node: str
    rows: Labels
    """Shape [blocks, length]."""
    is_required: bool
    """Without it the operation fails. Otherwise it only keeps equal pieces equal, which is what the
    user's own code (``chunk``) expects, and is dropped where it does not fit."""


@dataclass(frozen=True, slots=True)
class Components:
    """What the requests come to."""

    blocks: tuple[Labels, ...]
    """Per component, the roots in each block, shape [blocks, units]; at least two blocks."""
    misfits: frozenset[str]
    """Nodes whose requests do not fit and must be tied instead."""


Block = tuple[int, ...]


def find_components(
    balances: Sequence[Balance], roots: Sequence[Labels], signature_of: dict[int, int]
) -> Components:
    """Link the blocks of all requests.

    Args:
        balances: As the walk recorded them.
        roots: The root of each label in ``balances[i].rows``, at the end of the walk.
        signature_of: Signature of each root that is live and owns part of a tensor; others are
            frozen, or belong to nothing.
    """
    forest = _Forest()
    misfits: set[str] = set()
    # short rows first: a longer row may be made up of their blocks
    order = sorted(
        range(len(balances)), key=lambda i: (not balances[i].is_required, roots[i].shape[1])
    )
    for index in order:
        balance = balances[index]
        requests = _requests(_distinct_rows(roots[index]), signature_of)
        links = None if requests is None else [forest.linkable(blocks) for blocks in requests]
        if links is not None and all(links):
            for blocks in links:
                assert blocks is not None
                forest.link(blocks)
        elif balance.is_required:
            misfits.add(balance.node)
    return forest.components(frozenset(misfits))


def _distinct_rows(rows: Labels) -> Labels:
    """Each different row once, in the order in which they come."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def _requests(rows: Labels, signature_of: dict[int, int]) -> list[list[Block]] | None:
    """One list of blocks for each kind of unit in the rows; None if the rows do not match."""
    by_row: list[dict[int, Block]] = []
    kinds_of_row: list[list[tuple[int, int]]] = []
    for row in rows:
        distinct, first, counts = np.unique(row, return_index=True, return_counts=True)
        by_kind: dict[int, list[int]] = defaultdict(list)
        multiplicity: dict[int, int] = {}
        for place in np.argsort(first):
            root, count = int(distinct[place]), int(counts[place])
            kind = signature_of.get(root)
            if kind is None or multiplicity.setdefault(kind, count) != count:
                return None
            by_kind[kind].append(root)
        by_row.append({kind: tuple(block) for kind, block in by_kind.items()})
        kinds_of_row.append([(len(block), multiplicity[kind]) for kind, block in by_kind.items()])
    if any(kinds != kinds_of_row[0] for kinds in kinds_of_row[1:]):
        return None
    columns = zip(*(row.values() for row in by_row), strict=True)
    return [list(blocks) for blocks in columns]


class _Forest:
    """Union-find over blocks; each root belongs to one block only."""

    def __init__(self) -> None:
        self._number_of: dict[frozenset[int], int] = {}
        self._blocks: list[Block] = []
        self._parent: list[int] = []
        self._owner: dict[int, int] = {}

    def linkable(self, blocks: list[Block]) -> list[Block] | None:
        """What to link so that all these blocks lose the same number, or None if nothing would.

        That is the blocks themselves, or the smaller ones that they are made up of, if those are
        equally many and equally large in each.
        """
        if self._can_link(blocks):
            return blocks
        parts = [self._parts(block) for block in blocks]
        if any(part is None for part in parts):
            return None
        shapes = {tuple(sorted(len(self._blocks[n]) for n in part or ())) for part in parts}
        if len(shapes) != 1 or len(set(next(iter(shapes)))) != 1:
            return None
        numbers = {number for part in parts for number in part or ()}
        return [self._blocks[number] for number in sorted(numbers)]

    def _parts(self, block: Block) -> set[int] | None:
        """Numbers of the known blocks that make up this one exactly, or None."""
        owners = [self._owner.get(root) for root in block]
        numbers = {owner for owner in owners if owner is not None}
        if None in owners or sum(len(self._blocks[n]) for n in numbers) != len(block):
            return None
        return numbers

    def _can_link(self, blocks: list[Block]) -> bool:
        """Whether no block overlaps another one in part."""
        seen: dict[int, frozenset[int]] = {}
        for block in blocks:
            key = frozenset(block)
            number = self._number_of.get(key)
            for root in block:
                if seen.setdefault(root, key) != key or self._owner.get(root, number) != number:
                    return False
        return True

    def link(self, blocks: list[Block]) -> None:
        """Ask the same number of all these blocks."""
        numbers = [self._number(block) for block in blocks]
        first = self._find(numbers[0])
        for number in numbers[1:]:
            other = self._find(number)
            low, high = min(first, other), max(first, other)
            self._parent[high] = low
            first = low

    def components(self, misfits: frozenset[str]) -> Components:
        """Blocks that are linked, where there are at least two."""
        members: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._blocks)):
            members[self._find(number)].append(number)
        linked = {top: numbers for top, numbers in members.items() if len(numbers) > 1}
        return Components(
            blocks=tuple(
                np.array([self._blocks[number] for number in numbers], dtype=np.int64)
                for numbers in linked.values()
            ),
            misfits=misfits,
        )

    def _number(self, block: Block) -> int:
        key = frozenset(block)
        if key not in self._number_of:
            self._number_of[key] = len(self._blocks)
            self._parent.append(len(self._blocks))
            self._blocks.append(block)
            for root in block:
                self._owner[root] = self._number_of[key]
        return self._number_of[key]

    def _find(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number
