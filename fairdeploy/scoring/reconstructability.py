"""How badly the others can make up for a unit: a removal signal that knows about the repair.

The repair refits every layer by least squares, so a unit is cheap to remove if the layers that read
it can have nearly the same from the units that stay. No labels and no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.errors import DataError
from fairdeploy.graph.near_ties import settled
from fairdeploy.graph.unit_graph import KEPT, Group, UnitGraph
from fairdeploy.records import ImageSet
from fairdeploy.scoring.readers import Reader, RowProducts, find_readers


def reconstruction_scores(
    graph: UnitGraph,
    images: ImageSet,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score every unit: low is what others can make up for.

    Args:
        graph: Of the network, which stays as it is.
        images: Their labels are not looked at.
        seed: Of the choice of positions; same seed, same scores.
        progress: Called with the number of images done, batch by batch.

    Returns:
        Scores float64 [num_units], 1 on average in each group, and which units some layer reads
        at all (bool); the scores of the others are 0.

    Raises:
        DataError: There are no images.
    """
    errors, is_read = reconstruction_errors(graph, images, seed=seed, progress=progress)
    scores = np.zeros(graph.num_units)
    for group in graph.groups:
        read = group.units[is_read[group.units]]
        mean = float(errors[read].mean()) if len(read) else 0.0
        scores[read] = errors[read] / mean if mean > 0 else 0.0
    return scores, is_read


def reconstruction_errors(
    graph: UnitGraph,
    images: ImageSet,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the layers that read a unit lose if it goes and all of its group that are cheaper.

    Returns:
        Sum over the layers of the squared error that the best weights leave, as a share of their
        output; float64 [num_units]. And which units are read at all.

    Raises:
        DataError: There are no images.
    """
    if len(images) == 0:
        raise DataError("no images to score with; give at least one image of two classes each")
    readers = find_readers(graph)
    products = RowProducts(graph, readers, len(images))
    products.collect(images, seed, progress or (lambda _: None))
    errors = np.zeros(graph.num_units)
    is_read = np.zeros(graph.num_units, dtype=np.bool_)
    for group in graph.groups:
        place_of = np.full(graph.num_units + 1, KEPT, dtype=np.int64)
        place_of[group.units] = np.arange(len(group.units))
        layers = list(_adapting_layers(readers, products, place_of))
        is_read[group.units] = _read_units(readers, group, place_of)
        if layers:
            errors[group.units] = elimination_costs(layers, len(group.units))
    return errors, is_read


def _adapting_layers(
    readers: Sequence[Reader], products: RowProducts, place_of: NDArray[np.int64]
) -> Iterator[AdaptingLayer]:
    """Every layer that reads the group; a convolution of several groups gives as many."""
    for reader in readers:
        owners = [place_of[units] for units in reader.owners]
        if all((places == KEPT).all() for places in owners):
            continue
        gram = products.gram(reader)
        num_groups = len(reader.weight)
        for number in range(num_groups):
            inputs = [
                part
                for places in owners
                for part in _inputs(np.split(places, num_groups)[number], reader)
            ]
            if inputs:
                yield AdaptingLayer(gram[number], reader.weight[number], inputs)


def _inputs(places: NDArray[np.int64], reader: Reader) -> Iterator[Inputs]:
    """Rows of each unit of the group that has any, units with equally many rows together."""
    per_channel = reader.numbers_per_channel
    channels = np.flatnonzero(places != KEPT)
    channels = channels[np.argsort(places[channels], kind="stable")]
    units, starts, sizes = np.unique(places[channels], return_index=True, return_counts=True)
    for size in np.unique(sizes):
        chosen = sizes == size
        own = channels[starts[chosen][:, None] + np.arange(size)]
        rows = own[:, :, None] * per_channel + np.arange(per_channel)
        yield Inputs(units[chosen], torch.from_numpy(rows.reshape(len(own), -1)))


def _read_units(
    readers: Sequence[Reader], group: Group, place_of: NDArray[np.int64]
) -> NDArray[np.bool_]:
    is_read = np.zeros(len(group.units), dtype=np.bool_)
    for reader in readers:
        for units in reader.owners:
            places = place_of[units]
            is_read[places[places != KEPT]] = True
    return is_read


# ---- what the readers of a group lose as its units go one after the other and they adapt best ----


# Relative to the mean squared input: what so few images cannot tell from zero.
DAMPING = 1e-3
# Of those that are left, a round takes this share (at least one), before it looks again.
SHARE_PER_ROUND = 1 / 32


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows of one layer's problem that units bring, equally many each."""

    units: NDArray[np.int64]
    """Places within the group, shape [U]."""
    rows: Tensor
    """int64 [U, m]: their indices among the layer's n inputs."""


class AdaptingLayer:
    """One layer (or one group of a convolution) that loses inputs and makes the best of it."""

    def __init__(self, gram: Tensor, weight: Tensor, inputs: Sequence[Inputs]) -> None:
        """Start with all inputs.

        Args:
            gram: Products of the inputs' rows, float64 [n, n].
            weight: Map to the outputs, float64 [n, o].
            inputs: Which of the n belong to units of the group.
        """
        scale = gram.diagonal().mean().clamp_min(1e-12)
        damped = gram + DAMPING * scale * torch.eye(len(gram), dtype=gram.dtype)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._weight = weight.clone()
        self._energy = float((weight * (gram @ weight)).sum()) or 1.0
        self._inputs = tuple(inputs)

    def costs(self, is_left: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Added squared error if one unit goes, as a share of the outputs' energy.

        Args:
            is_left: Which units are there still, bool [N]; others cost nothing.
        """
        costs = np.zeros(len(is_left))
        for part in self._inputs:
            left = is_left[part.units]
            rows = part.rows[torch.from_numpy(left)]
            blocks = self._inverse[rows[:, :, None], rows[:, None, :]]
            weight = self._weight[rows]
            explained = weight * torch.linalg.solve(blocks, weight)
            costs[part.units[left]] += explained.sum((1, 2)).numpy() / self._energy
        return costs

    def remove(self, units: NDArray[np.int64]) -> None:
        """Take these units' inputs away and adapt to it (changes the layer)."""
        gone = [part.rows[np.isin(part.units, units)].reshape(-1) for part in self._inputs]
        rows = torch.cat(gone)
        if not len(rows):
            return
        columns = self._inverse[:, rows]
        factor = torch.linalg.solve(columns[rows], columns.mT)
        self._weight -= factor.mT @ self._weight[rows]
        self._inverse -= columns @ factor


def elimination_costs(layers: Sequence[AdaptingLayer], num_units: int) -> NDArray[np.float64]:
    """What goes with each unit and all that went before it, float64 [N]; changes ``layers``.

    The cheapest unit goes first, then the cheapest of those that are left, and so on: scores rise
    in that order.
    """
    scores = np.zeros(num_units)
    is_left = np.ones(num_units, dtype=np.bool_)
    total = 0.0
    while is_left.any():
        costs = sum((layer.costs(is_left) for layer in layers), start=np.zeros(num_units))
        left = np.flatnonzero(is_left)
        count = max(1, int(len(left) * SHARE_PER_ROUND))
        cheapest = left[np.argsort(settled(costs[left]), kind="stable")[:count]]
        for layer in layers:
            layer.remove(cheapest)
        scores[cheapest] = total + np.cumsum(np.maximum(costs[cheapest], 0.0))
        total = float(scores[cheapest[-1]])
        is_left[cheapest] = False
    return scores
