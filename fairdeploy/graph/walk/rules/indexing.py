"""Cutting and joining: slices, splits, concatenation, stacking, tables."""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import fx

from fairdeploy.graph.call_facts import argument, normal_dim, result_shape
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.label_grids import (
    cut_along,
    depends_on,
    is_grid,
    length_of,
    with_axis,
    without_axis,
)
from fairdeploy.graph.walk.propagation import Dims, Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.elementwise import broadcast, tie_grids
from fairdeploy.graph.walk.rules.registry import rewrite, rule


def dim_of(node: fx.Node, index: int, default: int = 0) -> int:
    """The ``dim`` argument of a call, counted from the front of its first argument."""
    dim = argument(node, index, "dim", default)
    source = node.args[0]
    first = source[0] if isinstance(source, (list, tuple)) else source
    assert isinstance(dim, int)
    assert isinstance(first, fx.Node)
    return normal_dim(dim, first.meta["val"].dim() if "val" in first.meta else 0)


def slice_bounds(node: fx.Node, length: int) -> tuple[int, int, int] | None:
    """Start, end and step of a slice call, or None if they are not plain numbers."""
    start = argument(node, 2, "start")
    end = argument(node, 3, "end")
    step = argument(node, 4, "step", 1)
    start = 0 if start is None else start
    end = length if end is None else end
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)):
        return None
    return (*slice(start, end).indices(length)[:2], step)


@rule("slice", "narrow", "slice_copy")
def cut(walk: Propagation, node: fx.Node) -> Value:
    """A slice keeps the labels of what it keeps."""
    dims = walk.grids(node.args[0])
    dim = dim_of(node, 1)
    length = result_shape(node)[dim]
    if str(node.target).startswith("aten.narrow"):
        start = node.args[2]
        bounds = (start, start + length, 1) if isinstance(start, int) else None
    else:
        bounds = slice_bounds(node, length_of(dims[dim], dim))
    if bounds is None or bounds[2] != 1:
        dims = walk.dims(node.args[0])
        walk.freeze(dims[dim], "a slice with a step or a computed bound")
        return (*dims[:dim], walk.fixed(length), *dims[dim + 1 :])
    return _cut(dims, dim, bounds[0], bounds[1])


def _cut(dims: Dims, dim: int, start: int, stop: int) -> Dims:
    """Labels of a piece along one dimension."""
    return tuple(cut_along(labels, own, dim, start, stop) for own, labels in enumerate(dims))


@rule("select")
def select(walk: Propagation, node: fx.Node) -> Value:
    """One index is picked out, so its dimension stays."""
    picked = node.args[2] if len(node.args) > 2 else node.kwargs.get("index")
    dims = walk.grids(node.args[0]) if isinstance(picked, int) else walk.dims(node.args[0])
    dim = dim_of(node, 1)
    walk.freeze(dims[dim], "one index of it is picked out by number")
    return _picked(dims, dim, picked if isinstance(picked, int) else 0)


def _picked(dims: Dims, dim: int, index: int) -> Dims:
    """Labels of what lies at one index of a dimension."""
    return tuple(
        without_axis(labels, own, dim, index) for own, labels in enumerate(dims) if own != dim
    )


@rule("unbind")
def unbind(walk: Propagation, node: fx.Node) -> Value:
    """Every index becomes a result of its own, so the dimension stays."""
    dims = walk.grids(node.args[0])
    dim = dim_of(node, 1)
    walk.freeze(dims[dim], "this dimension is taken apart index by index")
    return [_picked(dims, dim, index) for index in range(length_of(dims[dim], dim))]


@rule("split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "split_with_sizes_copy",
      "unsafe_split", "unsafe_chunk")  # fmt: skip
def split(walk: Propagation, node: fx.Node) -> Value:
    """Pieces keep the labels of what they hold."""
    dims = walk.grids(node.args[0])
    dim = dim_of(node, 2)
    lengths = [int(piece.shape[dim]) for piece in node.meta["val"]]
    if len(set(lengths)) == 1 and len(lengths) > 1 and not is_grid(dims[dim]):
        walk.balance(dims[dim].reshape(len(lengths), -1), is_required=False)
    ends = np.cumsum(lengths)
    return [
        _cut(dims, dim, int(end) - length, int(end))
        for end, length in zip(ends, lengths, strict=True)
    ]


@rule("getitem")
def getitem(walk: Propagation, node: fx.Node) -> Value:
    """Takes one result out of several."""
    assert node.target is operator.getitem
    source, index = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    results = walk.values.get(source)
    return results[index] if isinstance(results, list) else walk.fixed_like(node)


@rule("cat", "concat", "concatenate")
def cat(walk: Propagation, node: fx.Node) -> Value:
    """Labels are joined along one dimension and tied along the others."""
    operands = node.args[0]
    assert isinstance(operands, (list, tuple))
    dim = dim_of(node, 1)
    operands = [part for part in operands if not _is_empty(walk.grids(part))]
    has_plain_joint = all(
        not is_grid(walk.grids(part)[dim])
        and not any(
            depends_on(labels, own, dim) for own, labels in enumerate(walk.grids(part))
        )
        for part in operands
    )  # fmt: skip
    parts = [walk.grids(part) if has_plain_joint else walk.dims(part) for part in operands]
    rank = len(parts[0])
    return tuple(
        np.concatenate([dims[axis] for dims in parts])
        if axis == dim
        else tie_grids(walk, [dims[axis] for dims in parts], axis, rank,
                       length_of(parts[0][axis], axis))
        for axis in range(rank)
    )  # fmt: skip


def _is_empty(dims: Dims) -> bool:
    return len(dims) == 1 and len(dims[0]) == 0


@rule("stack")
def stack(walk: Propagation, node: fx.Node) -> Value:
    """A new dimension that nothing can be taken from."""
    operands = node.args[0]
    assert isinstance(operands, (list, tuple))
    parts = [walk.grids(part) for part in operands]
    rank = len(parts[0])
    dim = argument(node, 1, "dim", 0)
    assert isinstance(dim, int)
    shape = tuple(length_of(labels, own) for own, labels in enumerate(parts[0]))
    at = normal_dim(dim, rank + 1)
    joined = [with_axis(labels, at) for labels in broadcast(walk, parts, shape)]
    return (*joined[:at], walk.fixed(len(parts)), *joined[at:])


@rule("roll", "flip", "rot90")
def reorder(walk: Propagation, node: fx.Node) -> Value:
    """Indices change places along some dimensions; those stay."""
    dims = walk.dims(node.args[0])
    position = 1 if "flip" in str(node.target) else 2
    moved = argument(node, position, "dims", [])
    axes = moved if isinstance(moved, (list, tuple)) and moved else range(len(dims))
    for axis in axes:
        assert isinstance(axis, int)
        walk.freeze(dims[axis], "its indices change places")
    return dims


@rule("index")
def index(walk: Propagation, node: fx.Node) -> Value:
    """Advanced indexing: indexed dimensions stay, the others pass."""
    dims = walk.dims(node.args[0])
    indices = node.args[1]
    assert isinstance(indices, (list, tuple))
    used = [axis for axis, entry in enumerate(indices) if entry is not None]
    for axis in used:
        walk.freeze(dims[axis], "its rows are looked up by number, so that none can be missing")
    shape = result_shape(node)
    if not used or used != list(range(used[0], used[-1] + 1)):
        for labels in dims:
            walk.freeze(labels, "indexed along separate dimensions")
        return walk.fixed_like(node)
    before, after = dims[: used[0]], dims[used[-1] + 1 :]
    middle = shape[len(before) : len(shape) - len(after)]
    return (*before, *(walk.fixed(length) for length in middle), *after)


@rule("index_put")
def index_put(walk: Propagation, node: fx.Node) -> Value:
    """Values are put at places: indexed dimensions stay, the others go with those of the values."""
    target, indices, given = node.args[:3]
    assert isinstance(indices, (list, tuple))
    dims, values = walk.dims(target), walk.dims(given)
    ranks = [1 if index is None else _rank_of_index(index) for index in indices]
    used = [place for place, index in enumerate(indices) if index is not None]
    first, end = used[0], len(indices)
    is_one_stretch = used == list(range(first, end))
    covered = sum(ranks[first:]) if _is_mask(indices[first]) else end - first
    before, after = dims[:first], dims[first + covered :]
    for labels in dims[first : first + covered]:
        walk.freeze(labels, "its rows are written by number, so that none can be missing")
    if not is_one_stretch:
        walk.freeze_all(dims, "written along separate dimensions")
    rank = 1 if _is_mask(indices[first]) else max(ranks[first:])
    own = (*before, *([None] * rank), *after)
    for offset, labels in enumerate(reversed(values), start=1):
        wanted = own[-offset] if offset <= len(own) else None
        if wanted is None or len(wanted) != len(labels):
            walk.freeze(labels, "put at places that are found by number")
        else:
            walk.tie(labels, wanted)
    return dims


def _is_mask(index: object) -> bool:
    return isinstance(index, fx.Node) and index.meta["val"].dtype == torch.bool


def _rank_of_index(index: object) -> int:
    assert isinstance(index, fx.Node)
    return int(index.meta["val"].dim())


@rule("slice_scatter", "select_scatter", "index_copy", "index_add", "index_fill")
def scatter(walk: Propagation, node: fx.Node) -> Value:
    """Part of one dimension is replaced: that stays, the others go with those of the source."""
    dims = walk.dims(node.args[0])
    is_first = op_name(node) in {"slice_scatter", "select_scatter"}
    dim = dim_of(node, 2 if is_first else 1)
    walk.freeze(dims[dim], "part of it is replaced by number")
    source = node.args[1] if is_first else node.args[3]
    if walk.is_tensor(source):
        given = walk.dims(source)
        others = [labels for axis, labels in enumerate(dims) if axis != dim]
        if len(given) == len(dims):
            walk.freeze(given[dim], "it replaces part of another value by number")
            given = (*given[:dim], *given[dim + 1 :])
        for labels, wanted in zip(given, others, strict=bool(given)):
            walk.tie(labels, wanted)
    return dims


@rule("index_select", "gather")
def index_select(walk: Propagation, node: fx.Node) -> Value:
    """Rows are looked up along one dimension; ``gather`` fixes the others too."""
    dims = list(walk.dims(node.args[0]))
    dim = dim_of(node, 1)
    is_gather = "gather" in str(node.target)
    for axis, labels in enumerate(dims):
        if axis == dim or is_gather:
            walk.freeze(labels, "its rows are looked up by number, so that none can be missing")
            dims[axis] = walk.fixed(result_shape(node)[axis])
    return tuple(dims)


@rule("embedding")
def embedding(walk: Propagation, node: fx.Node) -> Value:
    """``weight [V, D]``: the table's rows stay, its channels pass."""
    weight, numbers = walk.dims(node.args[0]), walk.dims(node.args[1])
    walk.freeze(weight[0], "its rows are looked up by number, so that none can be missing")
    for labels in numbers:
        walk.freeze(labels, "numbers of table rows")
    return (*numbers, weight[1])


# ---- rewrites ------------------------------------------------------------------------------------


@rewrite("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk")
def rewrite_split(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Give each piece its kept length: as before where these are equal, else one by one."""
    dim = dim_of(original, 2)
    if not rewriter.changes(original.args[0], dim):
        return
    sizes, start = [], 0
    for piece in original.meta["val"]:
        stop = start + int(piece.shape[dim])
        sizes.append(rewriter.kept_between(original.args[0], dim, start, stop))
        start = stop
    if len(set(sizes)) == 1 and op_name(node) in {"chunk", "unsafe_chunk", "tensor_split"}:
        return
    if len(set(sizes)) == 1 and op_name(node) in {"split", "unsafe_split"}:
        node.update_arg(1, sizes[0])
        return
    node.target = torch.ops.aten.split_with_sizes.default
    node.args = (node.args[0], sizes, dim)
    node.kwargs = {}


@rewrite("slice")
def rewrite_slice(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Move the bounds by what goes before them."""
    dim = dim_of(original, 1)
    if not rewriter.changes(original.args[0], dim):
        return
    length = rewriter.length(original.args[0], dim)
    bounds = slice_bounds(original, length)
    assert bounds is not None
    start = rewriter.kept_between(original.args[0], dim, 0, bounds[0])
    # a slice up to the end says so, whatever the batch
    end = argument(original, 3, "end")
    if bounds[1] < length:
        end = rewriter.kept_between(original.args[0], dim, 0, bounds[1])
    node.args = (node.args[0], dim, start, end if end is None else int(end))  # type: ignore[call-overload]
    node.kwargs = {}


@rewrite("narrow")
def rewrite_narrow(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Move the start by what goes before it, and keep what stays of the rest."""
    dim, (start, length) = dim_of(original, 1), original.args[2:]
    if rewriter.changes(original.args[0], dim):
        assert isinstance(start, int)
        assert isinstance(length, int)
        before = rewriter.kept_between(original.args[0], dim, 0, start)
        kept = rewriter.kept_between(original.args[0], dim, start, start + length)
        node.args = (node.args[0], dim, before, kept)
