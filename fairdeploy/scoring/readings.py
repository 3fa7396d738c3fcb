"""One number per unit from what each of its layers says.

Layers differ in scale for reasons that have nothing to do with their units (the size of a kernel,
the gain of a norm), so what a layer says of its units is divided by its mean before anything is
compared or added. A coupled unit, which several layers make, is scored by the mean over them: each
layer has one vote, whatever its scale, and a unit that only one of many layers needs is not lost in
a sum that the largest layer decides. Units that a single layer makes keep that layer's order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.near_ties import settled
from fairdeploy.graph.unit_graph import UnitGraph, UnitIds

Scores = NDArray[np.float64]
Reading = tuple[UnitIds, Scores]
"""Global unit numbers [U], and what one layer says of them [U], none negative."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One signal of all units."""

    values: Scores
    """Shape [num_units]; high for units that matter, 0 where nothing was measured."""
    is_measured: NDArray[np.bool_]
    """Shape [num_units]."""


def mean_over_layers(num_units: int, readings: Iterable[Reading]) -> Measured:
    """Mean over layers of what each says, after division by the layer's own mean."""
    total = np.zeros(num_units)
    num_layers = np.zeros(num_units, dtype=np.int64)
    for units, values in readings:
        mean = float(values.mean()) if len(values) else 0.0
        total[units] += values / mean if mean > 0 else 0.0
        num_layers[units] += 1
    return Measured(total / np.maximum(num_layers, 1), num_layers > 0)


def divided_by_group_means(graph: UnitGraph, values: Scores) -> Measured:
    """A signal that is measured unit by unit, scaled to mean 1 in each group."""
    readings = ((group.units, values[group.units]) for group in graph.groups)
    return mean_over_layers(graph.num_units, readings)


def with_stand_in(graph: UnitGraph, measured: Measured, stand_in: Scores) -> Scores:
    """Give units that were not measured the rank of ``stand_in`` in the group, scaled to mean 1."""
    filled = measured.values.copy()
    for group in graph.groups:
        missing = ~measured.is_measured[group.units]
        if missing.any():
            order = np.argsort(settled(stand_in[group.units]), kind="stable")
            ranks = np.argsort(order)
            by_rank = 2.0 * (ranks + 0.5) / len(ranks)
            filled[group.units[missing]] = by_rank[missing]
    return filled
