"""Expand, repeat, tile: labels repeat with their values."""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import argument, normal_dim, result_shape
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.label_grids import depends_on, is_grid, length_of
from fairdeploy.graph.walk.propagation import Propagation, Value
from fairdeploy.graph.walk.rules.registry import rule


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(walk: Propagation, node: fx.Node) -> Value:
    """A single index is repeated; new dimensions are fixed, or follow the tensor they match."""
    is_matched = op_name(node) == "expand_as"
    dims = walk.dims(node.args[0]) if is_matched else walk.grids(node.args[0])
    shape = result_shape(node)
    wanted = walk.dims(node.args[1]) if is_matched else tuple(map(walk.fixed, shape))
    result = list(wanted)
    for offset, labels in enumerate(reversed(dims), start=1):
        if length_of(labels, len(dims) - offset) == shape[-offset]:
            if is_matched:
                walk.tie(labels, wanted[-offset])
            front = (1,) * (len(shape) - len(dims)) if is_grid(labels) else ()
            result[-offset] = labels.reshape(front + labels.shape)
        else:
            walk.freeze(labels, "a single index is repeated")
    return tuple(result)


@rule("repeat", "tile")
def repeat(walk: Propagation, node: fx.Node) -> Value:
    """Labels repeat with their values."""
    dims = walk.grids(node.args[0])
    shape = result_shape(node)
    if len(shape) > len(dims):
        dims = walk.dims(node.args[0])
    padded = (*(walk.fixed(1) for _ in range(len(shape) - len(dims))), *dims)
    before = [length_of(labels, dim) for dim, labels in enumerate(padded)]
    times = [new // old if old else 1 for old, new in zip(before, shape, strict=True)]
    return tuple(
        np.tile(labels, times[dim])
        if not is_grid(labels)
        else np.tile(labels, [
            count if labels.shape[axis] > 1 else 1 for axis, count in enumerate(times)])
        for dim, labels in enumerate(padded)
    )  # fmt: skip


@rule("repeat_interleave")
def repeat_interleave(walk: Propagation, node: fx.Node) -> Value:
    """Each index is repeated in place."""
    dims = walk.grids(node.args[0])
    dim = argument(node, 2, "dim")
    shape = result_shape(node)
    if not isinstance(dim, int) or not isinstance(node.args[1], int):
        walk.freeze_all(dims, "repeated by computed counts")
        return walk.fixed_like(node)
    axis = normal_dim(dim, len(dims))
    times = shape[axis] // length_of(dims[axis], axis)
    return tuple(
        np.repeat(labels, times, axis if is_grid(labels) else 0)
        if own == axis or depends_on(labels, own, axis)
        else labels
        for own, labels in enumerate(dims)
    )
