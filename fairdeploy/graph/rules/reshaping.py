"""Reshape, permute, expand: indices keep their labels through every change of shape.

A reshape is cut into the shortest segments of equal size. Joining dimensions repeats the labels of
the one that is live; taking a dimension apart keeps one part live and ties across the others. This
alone gives attention heads, flatten-before-linear, channel shuffle and pixel shuffle.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.attention_axis import batch_axis_of_attention
from fairdeploy.graph.functionalize import op_name
from fairdeploy.graph.labels import FIXED, Labels
from fairdeploy.graph.propagation import (
    Dims,
    Propagation,
    Value,
    argument,
    normal_dim,
    result_shape,
)
from fairdeploy.graph.rules.registry import rule
from fairdeploy.graph.shape_segments import segments


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "reshape_as", "view_as", "squeeze",
      "unsqueeze", "_reshape_alias", "view_copy", "unsqueeze_copy", "squeeze_copy",
      "ravel")  # fmt: skip
def reshape(walk: Propagation, node: fx.Node) -> Value:
    """Any change of shape that keeps the order of elements."""
    return reshape_labels(walk, node, walk.dims(node.args[0]), result_shape(node))


def reshape_labels(walk: Propagation, node: fx.Node, dims: Dims, shape: tuple[int, ...]) -> Dims:
    """Labels after a reshape of ``dims`` to ``shape``, tying what has to be tied."""
    result: list[Labels] = [walk.fixed(length) for length in shape]
    for sources, targets in segments(tuple(len(labels) for labels in dims), shape):
        joined = _join(walk, [dims[axis] for axis in sources])
        if not joined.any():
            continue
        if len(targets) == 1:
            result[targets[0]] = joined
        else:
            live, labels = _take_apart(walk, node, joined, targets, shape)
            result[live] = labels
    for labels in dims:
        if len(labels) == 1:
            walk.freeze(labels, f"'{op_name(node)}' of a single index")
    return tuple(result)


def _join(walk: Propagation, parts: list[Labels]) -> Labels:
    """Labels of the product of several dimensions, only one of which may be live."""
    if len(parts) == 1:
        return parts[0]
    num_units = [walk.store.num_live_units(labels[labels != FIXED]) for labels in parts]
    live = int(np.argmax(num_units))
    for axis, labels in enumerate(parts):
        if axis != live:
            walk.freeze(labels, "joined with another dimension that can shrink")
    lengths = [len(labels) for labels in parts]
    form = [1] * len(parts)
    form[live] = lengths[live]
    joined: Labels = np.broadcast_to(parts[live].reshape(form), lengths).reshape(-1)
    return joined


def _take_apart(
    walk: Propagation,
    node: fx.Node,
    joined: Labels,
    targets: tuple[int, ...],
    shape: tuple[int, ...],
) -> tuple[int, Labels]:
    """Choose the part that stays live, tie across the others; return it and its labels."""
    grid = joined.reshape([shape[axis] for axis in targets])
    axes = [axis for axis in targets if shape[axis] > 1]
    preferred = batch_axis_of_attention(node, axes) if len(axes) > 1 else None
    if preferred is not None:
        live = preferred
    else:
        counts = [_num_units_along(walk, grid, targets.index(axis)) for axis in axes]
        live = axes[int(np.argmax(counts))]
    rows = np.moveaxis(grid, targets.index(live), -1).reshape(-1, shape[live])
    first = np.ascontiguousarray(rows[0])
    for row in rows[1:]:
        walk.tie(first, np.ascontiguousarray(row), "taken apart together with a fixed index")
    return live, first


def _num_units_along(walk: Propagation, grid: Labels, axis: int) -> int:
    """Units that would be left if ``axis`` stayed live and all others were tied across."""
    columns = walk.store.find(np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1).reshape(-1))
    columns = columns.reshape(grid.shape[axis], -1)
    if not walk.store.is_live(columns.reshape(-1)).all():
        is_live = walk.store.is_live(columns.reshape(-1)).reshape(columns.shape).all(axis=1)
        columns = columns[is_live]
    if not len(columns):
        return 0
    # columns that share a root would be tied together: count connected components of rows
    parent = {int(label): int(label) for label in np.unique(columns)}

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    for column in columns:
        unique = np.unique(column)
        for label in unique[1:]:
            parent[root(int(label))] = root(int(unique[0]))
    return len({root(int(column[0])) for column in columns})


@rule("permute", "permute_copy")
def permute(walk: Propagation, node: fx.Node) -> Value:
    """Dimensions change places."""
    dims = walk.dims(node.args[0])
    order = node.args[1]
    assert isinstance(order, (list, tuple))
    return tuple(dims[normal_dim(axis, len(dims))] for axis in order if isinstance(axis, int))


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "transpose_copy")
def transpose(walk: Propagation, node: fx.Node) -> Value:
    """Two dimensions change places."""
    dims = list(walk.dims(node.args[0]))
    if len(dims) < 2:
        return tuple(dims)
    first, second = transposed_axes(node, len(dims))
    dims[first], dims[second] = dims[second], dims[first]
    return tuple(dims)


def transposed_axes(node: fx.Node, rank: int) -> tuple[int, int]:
    """The two axes that a transpose exchanges."""
    if len(node.args) < 3:
        return rank - 2, rank - 1
    first, second = node.args[1], node.args[2]
    assert isinstance(first, int)
    assert isinstance(second, int)
    return normal_dim(first, rank), normal_dim(second, rank)


@rule("movedim", "moveaxis")
def movedim(walk: Propagation, node: fx.Node) -> Value:
    """Some dimensions move."""
    dims = walk.dims(node.args[0])
    # numpy moves the axes of a marker whose lengths are the axes' own numbers
    marker = np.empty(range(1, len(dims) + 1))
    moved = np.moveaxis(marker, node.args[1], node.args[2])  # type: ignore[arg-type]
    return tuple(dims[length - 1] for length in moved.shape)


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(walk: Propagation, node: fx.Node) -> Value:
    """A single index is repeated; new dimensions are fixed."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    result = [walk.fixed(length) for length in shape]
    for offset, labels in enumerate(reversed(dims), start=1):
        if len(labels) == shape[-offset]:
            result[-offset] = labels
        else:
            walk.freeze(labels, "a single index is repeated")
    return tuple(result)


@rule("repeat", "tile")
def repeat(walk: Propagation, node: fx.Node) -> Value:
    """Labels repeat with their values."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    padded = (*(walk.fixed(1) for _ in range(len(shape) - len(dims))), *dims)
    return tuple(
        np.tile(labels, length // len(labels)) if len(labels) else labels
        for labels, length in zip(padded, shape, strict=True)
    )


@rule("repeat_interleave")
def repeat_interleave(walk: Propagation, node: fx.Node) -> Value:
    """Each index is repeated in place."""
    dims = list(walk.dims(node.args[0]))
    dim = argument(node, 2, "dim")
    shape = result_shape(node)
    if not isinstance(dim, int) or not isinstance(node.args[1], int):
        walk.freeze_all(tuple(dims), "repeated by computed counts")
        return walk.fixed_like(node)
    axis = normal_dim(dim, len(dims))
    dims[axis] = np.repeat(dims[axis], shape[axis] // len(dims[axis]))
    return tuple(dims)


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """``[N, C r r, H, W] -> [N, C, H r, W r]`` and back: each channel has r * r places."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    channel = len(dims) - 3
    space = tuple(walk.fixed(length) for length in shape[channel + 1 :])
    if len(dims[channel]) > shape[channel]:
        places = dims[channel].reshape(shape[channel], -1)
        first = np.ascontiguousarray(places[:, 0])
        for column in places.T[1:]:
            walk.tie(first, np.ascontiguousarray(column))
    else:
        first = np.repeat(dims[channel], shape[channel] // len(dims[channel]))
    return (*dims[:channel], first, *space)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """Channels of several blocks are dealt out in turn: the same place of each block goes."""
    dims = list(walk.dims(node.args[0]))
    groups = node.args[1]
    assert isinstance(groups, int)
    blocks = dims[1].reshape(groups, -1)
    for row in blocks[1:]:
        walk.tie(np.ascontiguousarray(blocks[0]), np.ascontiguousarray(row))
    dims[1] = np.ascontiguousarray(blocks.T).reshape(-1)
    return tuple(dims)
