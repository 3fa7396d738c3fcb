"""Labels that differ from block to block of another dimension.

The labels of a dimension are a vector if an index means the same wherever one looks along the other
dimensions. Where it does not (channel 3 of one attention head is another than channel 3 of the
next), they are a *grid*: an array with one axis per dimension of the value, of length 1 along the
dimensions that make no difference. ``[1, H, 1, D]`` are labels of dimension 3 that depend on
dimension 1.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.walk.labels import Labels

_Number = TypeVar("_Number", np.int64, np.bool_)


def is_grid(labels: Labels) -> bool:
    """Whether labels depend on other dimensions."""
    return labels.ndim > 1


def length_of(labels: Labels, dim: int) -> int:
    """Length of the dimension that the labels belong to, which is dimension ``dim``."""
    return int(labels.shape[dim] if labels.ndim > 1 else len(labels))


def as_grid(labels: Labels, dim: int, rank: int) -> Labels:
    """The labels of dimension ``dim`` of a value of this rank with an axis per dimension."""
    if labels.ndim == rank:
        return labels
    if labels.ndim > 1:
        raise AssertionError(f"a grid of rank {labels.ndim} in a value of rank {rank}")
    return labels.reshape([len(labels) if axis == dim else 1 for axis in range(rank)])


def simplified(grid: Labels, dim: int) -> Labels:
    """A grid without axes along which nothing changes; a vector if none is left."""
    for axis in range(grid.ndim):
        if axis != dim and grid.shape[axis] > 1:
            first = grid.take([0], axis)
            if (grid == first).all():
                grid = first
    has_blocks = any(length > 1 for axis, length in enumerate(grid.shape) if axis != dim)
    return grid if has_blocks and grid.ndim > 1 else np.ascontiguousarray(grid.reshape(-1))


def rows_of(grid: NDArray[_Number], dim: int) -> NDArray[_Number]:
    """The labels block by block, shape [blocks, length]."""
    if grid.ndim == 1:
        return grid[None]
    return np.moveaxis(grid, dim, -1).reshape(-1, grid.shape[dim])


def depends_on(labels: Labels, dim: int, axis: int) -> bool:
    """Whether labels of dimension ``dim`` change along another dimension."""
    return labels.ndim > 1 and axis != dim and labels.shape[axis] > 1


def without_axis(labels: Labels, dim: int, axis: int, index: int) -> Labels:
    """Labels of dimension ``dim`` after ``index`` was picked from dimension ``axis``, now gone."""
    if labels.ndim == 1:
        return labels
    picked: Labels = labels.take([index if labels.shape[axis] > 1 else 0], axis)
    picked = picked.reshape(picked.shape[:axis] + picked.shape[axis + 1 :])
    return simplified(picked, dim - (axis < dim))


def with_axis(labels: Labels, axis: int) -> Labels:
    """Labels after a new dimension was put in at ``axis``."""
    return labels if labels.ndim == 1 else np.expand_dims(labels, axis)


def cut_along(labels: Labels, dim: int, axis: int, start: int, stop: int) -> Labels:
    """Labels of dimension ``dim`` after dimension ``axis`` was cut to ``start:stop``."""
    if labels.ndim == 1:
        return labels[start:stop] if axis == dim else labels
    if labels.shape[axis] == 1 and axis != dim:
        return labels
    window = [slice(None)] * labels.ndim
    window[axis] = slice(start, stop)
    return simplified(labels[tuple(window)], dim)
