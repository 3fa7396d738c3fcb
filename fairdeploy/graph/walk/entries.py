"""Who sits where: one row for each index of each labelled dimension of each tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.walk.label_grids import rows_of
from fairdeploy.graph.walk.labels import FIXED, NO_REASON, Labels
from fairdeploy.graph.walk.propagation import Propagation


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
