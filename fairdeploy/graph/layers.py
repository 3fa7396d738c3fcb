"""Where each unit's output can be read: after its layer, norm and activation.

A *score point* is one value of the graph whose channel dimension holds removable units: the output
of a convolution, linear or recurrent layer, followed through batch norm and activation as long as
nothing else reads the values in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.batch_dimension import BatchDimension, batch_dimensions
from fairdeploy.graph.call_facts import stored_factors
from fairdeploy.graph.operators import kind_of, op_name, operator_of
from fairdeploy.graph.unit_graph import KEPT, UnitGraph, UnitIds

_FOLLOWED = {"batch norm", "activation", "same", "dropout"}


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One measured value and the units in its channel dimension."""

    layer: str
    """Node of the convolution or linear layer."""
    node: str
    """Node whose value is measured: the same, or the last norm or activation after it."""
    channel_dim: int
    batch: BatchDimension
    units: UnitIds
    """Global unit numbers, shape [U], ascending."""
    positions: NDArray[np.int64]
    """Shape [U, m]: the m channels of each unit."""
    num_channels: int


def score_points(graph: UnitGraph) -> tuple[ScorePoint, ...]:
    """All score points in graph order; a layer whose units differ in size gives one per size."""
    batches = batch_dimensions(graph)
    nodes = graph.module.graph.nodes
    return tuple(point for node in nodes for point in _points_of(node, graph, batches))


def _points_of(
    layer: fx.Node, graph: UnitGraph, batches: Mapping[str, BatchDimension]
) -> Iterator[ScorePoint]:
    channel_dim = _channel_dim(layer, graph)
    if channel_dim is None:
        return
    node = _last_of_chain(layer, channel_dim, graph)
    batch = batches.get(node.name)
    if batch is None or batch.dim == channel_dim:
        return
    owners = graph.value_units[node.name][channel_dim]
    for numbers in graph.owners(owners):
        for units, positions in _units_by_size(numbers):
            yield ScorePoint(
                layer.name, node.name, channel_dim, batch, units, positions, len(owners)
            )


def _channel_dim(layer: fx.Node, graph: UnitGraph) -> int | None:
    """The output dimension with the layer's channels; None if not a layer or nothing removable."""
    dims = graph.value_units.get(layer.name)
    if layer.op != "call_function" or not dims:
        return None
    operator = operator_of(layer)
    if operator.num_spatial:
        channel_dim = len(dims) - 1 - operator.num_spatial
    elif operator.kind == "convolution":
        channel_dim = 1
    elif (operator.is_linear and any(stored_factors(layer))) or _is_recurrent_output(layer):
        channel_dim = len(dims) - 1
    else:
        return None
    units = dims[channel_dim]
    return channel_dim if units.ndim == 1 and (units != KEPT).any() else None


def _is_recurrent_output(node: fx.Node) -> bool:
    """Whether a value is what a recurrent layer gives at every step."""
    if op_name(node) != "getitem" or node.args[1] != 0:
        return False
    source = node.args[0]
    return isinstance(source, fx.Node) and kind_of(source) == "recurrent"


def _last_of_chain(layer: fx.Node, channel_dim: int, graph: UnitGraph) -> fx.Node:
    """Follow norms and activations while each value has one reader and the same channels."""
    node = layer
    while len(node.users) == 1:
        (user,) = node.users
        if kind_of(user) not in _FOLLOWED or user.args[:1] != (node,):
            break
        dims = graph.value_units.get(user.name)
        here = graph.value_units[node.name]
        if dims is None or len(dims) != len(here):
            break
        if not np.array_equal(dims[channel_dim], here[channel_dim]):
            break
        node = user
    return node


def _units_by_size(owners: UnitIds) -> Iterator[tuple[UnitIds, NDArray[np.int64]]]:
    """Units of one dimension with their positions, [U] and [U, m], for each m that occurs."""
    positions = np.flatnonzero(owners != KEPT)
    positions = positions[np.argsort(owners[positions], kind="stable")]
    units, starts, sizes = np.unique(owners[positions], return_index=True, return_counts=True)
    for size in np.unique(sizes):
        chosen = sizes == size
        yield units[chosen], positions[starts[chosen][:, None] + np.arange(size)]
