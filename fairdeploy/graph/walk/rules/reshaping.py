"""Reshape, permute, move: indices keep their labels through every change of shape.

A reshape is cut into the shortest segments of equal size. Joining dimensions repeats the labels of
the one that is live; taking a dimension apart keeps one part live and asks for the same number of
indices from each block of it. This alone gives attention heads, flatten-before-linear, channel
shuffle and pixel shuffle.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.graph.call_facts import hint_shape, normal_dim, result_shape
from fairdeploy.graph.operators import kind_of, op_name, operator_of
from fairdeploy.graph.walk.label_grids import (
    as_grid,
    depends_on,
    is_grid,
    length_of,
    rows_of,
    simplified,
)
from fairdeploy.graph.walk.labels import Labels, LabelStore
from fairdeploy.graph.walk.propagation import Dims, Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.registry import rewrite, rule


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "reshape_as", "view_as", "squeeze",
      "unsqueeze", "_reshape_alias", "view_copy", "unsqueeze_copy", "squeeze_copy",
      "ravel")  # fmt: skip
def reshape(walk: Propagation, node: fx.Node) -> Value:
    """Any change of shape that keeps the order of elements."""
    result = reshape_labels(walk, node, walk.grids(node.args[0]), result_shape(node))
    if op_name(node) in {"reshape_as", "view_as"}:
        flat = tuple(walk.flat(labels, dim) for dim, labels in enumerate(result))
        for labels, wanted in zip(flat, walk.dims(node.args[1]), strict=True):
            walk.tie(labels, wanted)
        return flat
    return result


def reshape_labels(walk: Propagation, node: fx.Node, dims: Dims, shape: tuple[int, ...]) -> Dims:
    """Labels after a reshape of ``dims`` to ``shape``, tying what has to be tied."""
    before = tuple(length_of(labels, dim) for dim, labels in enumerate(dims))
    cuts = segments(before, shape)
    result: list[Labels] = [walk.fixed(length) for length in shape]
    for sources, targets in cuts:
        live = sources[0] if len(sources) == 1 else _live_part(walk, dims, sources)
        if not dims[live].any():
            continue
        labels = dims[live]
        if _cannot_pass(node, labels, live, cuts):
            labels = walk.flat(labels, live)
        grid = _reshaped(labels, live, before, shape, cuts)
        if len(targets) == 1:
            result[targets[0]] = simplified(grid, targets[0])
        else:
            axis, labels = _take_apart(walk, node, grid, targets)
            result[axis] = labels
    for dim, labels in enumerate(dims):
        if before[dim] == 1:
            walk.freeze(labels, f"'{op_name(node)}' of a single index")
    return tuple(result)


def _cannot_pass(node: fx.Node, labels: Labels, dim: int, cuts: list[Segment]) -> bool:
    """Whether labels that depend on other dimensions cannot go through a reshape as they are.

    Joined with blocks on the inside, what stays would come in another order. Blocks that are joined
    with a batch of any size have no fixed number.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for sources, _ in cuts:
        depended = [axis for axis in sources if depends_on(labels, dim, axis)]
        if depended and dim in sources and max(depended) > dim:
            return True
        if depended and any(isinstance(_size(source, axis), torch.SymInt) for axis in sources):
            return True
    return False


def _live_part(walk: Propagation, dims: Dims, sources: tuple[int, ...]) -> int:
    """Of several dimensions that are joined, the one that stays live; the others are frozen.

    Heads come first: where they are units, the channels of a value that all heads share stay.
    """
    num_units = [walk.store.num_live_units(dims[dim].reshape(-1)) for dim in sources]
    heads = np.unique(walk.store.find(np.concatenate([walk.fixed(0), *walk.heads])))
    for place, dim in enumerate(sources):
        if num_units[place] and np.isin(walk.store.find(dims[dim].reshape(-1)), heads).any():
            num_units[place] = sum(num_units) + 1
    live = sources[int(np.argmax(num_units))]
    for dim in sources:
        if dim != live:
            walk.freeze(dims[dim], "joined with another dimension that can shrink")
    return live


def _reshaped(
    labels: Labels, dim: int, before: tuple[int, ...], shape: tuple[int, ...], cuts: list[Segment]
) -> Labels:
    """Labels of dimension ``dim`` as a grid over the dimensions of the new shape.

    A segment that the labels do not depend on has length 1 in it.
    """
    grid = as_grid(labels, dim, len(before))
    full, form = list(grid.shape), [1] * len(shape)
    for sources, targets in cuts:
        if any(grid.shape[axis] > 1 for axis in sources):
            for axis in sources:
                full[axis] = before[axis]
            for axis in targets:
                form[axis] = shape[axis]
    return np.broadcast_to(grid, full).reshape(form)


def _take_apart(
    walk: Propagation, node: fx.Node, grid: Labels, targets: tuple[int, ...]
) -> tuple[int, Labels]:
    """Choose the part that stays live; return it and its labels.

    The same number must go from it everywhere along the other parts, or the same index if those
    are heads' channels, or the batch.
    """
    axes = [axis for axis in targets if grid.shape[axis] > 1]
    is_sought = len(axes) > 1 and walk.attention != "unseen"
    heads = batch_axis_of_attention(node, axes) if is_sought else None
    if heads is not None and walk.attention == "none":
        walk.freeze(grid, "attention is left alone (--attention none)")
    live = heads
    if heads is None or walk.attention == "channels":
        others = [axis for axis in axes if axis != heads]
        counts = [_num_units_along(walk, grid, axis) for axis in others]
        live = others[int(np.argmax(counts))]
    assert live is not None
    if live == heads:
        walk.heads.append(grid.reshape(-1))
    elif heads is not None:
        walk.head_channels.append(grid.reshape(-1))
    for axis in axes:
        if axis != live and (live == heads or isinstance(_size(node, axis), torch.SymInt)):
            grid = _tied_along(walk, grid, axis)
    grid = _without_repeats(walk, grid, live)
    rows = rows_of(grid, live)
    if len(rows) > 1 and not walk.balance(rows, is_required=True):
        walk.tie_rows(rows, "taken apart together with a fixed index")
        return live, np.ascontiguousarray(rows[0])
    return live, simplified(grid, live)


def _size(node: fx.Node, axis: int) -> object:
    size: object = node.meta["val"].shape[axis]
    return size


def _tied_along(walk: Propagation, grid: Labels, axis: int) -> Labels:
    """The grid without dependence on one axis: its labels are tied along it."""
    first = grid.take([0], axis)
    walk.tie(first, grid, "taken apart together with a fixed index")
    return first


def _without_repeats(walk: Propagation, grid: Labels, live: int) -> Labels:
    """The grid without axes along which the same units repeat."""
    roots = simplified(walk.store.find(grid.reshape(-1)).reshape(grid.shape), live)
    for axis in range(grid.ndim):
        if axis != live and (roots.ndim == 1 or roots.shape[axis] == 1):
            grid = grid.take([0], axis)
    return grid


def _num_units_along(walk: Propagation, grid: Labels, axis: int) -> int:
    """Units that would be left if ``axis`` stayed live and all others were tied across."""
    columns = rows_of(grid, axis).T
    is_live = walk.store.is_live(columns.reshape(-1)).reshape(columns.shape).all(axis=1)
    columns = walk.store.find(columns[is_live].reshape(-1)).reshape(-1, columns.shape[1])
    if not len(columns):
        return 0
    # columns that share a root would be tied together: count what is connected
    _, roots = np.unique(columns, return_inverse=True)
    trial = LabelStore()
    of_columns, of_roots = trial.fresh(len(columns)), trial.fresh(int(roots.max()) + 1)
    trial.merge(np.repeat(of_columns, columns.shape[1]), of_roots[roots.reshape(-1)], 0)
    return len(np.unique(trial.find(of_columns)))


@rule("permute", "permute_copy")
def permute(walk: Propagation, node: fx.Node) -> Value:
    """Dimensions change places."""
    dims = walk.grids(node.args[0])
    order = node.args[1]
    assert isinstance(order, (list, tuple))
    return _permuted(dims, [normal_dim(axis, len(dims)) for axis in order if isinstance(axis, int)])


def _permuted(dims: Dims, order: list[int]) -> Dims:
    return tuple(
        dims[axis].transpose(order) if is_grid(dims[axis]) else dims[axis] for axis in order
    )


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "transpose_copy")
def transpose(walk: Propagation, node: fx.Node) -> Value:
    """Two dimensions change places."""
    dims = walk.grids(node.args[0])
    if len(dims) < 2:
        return dims
    first, second = transposed_axes(node, len(dims))
    order = list(range(len(dims)))
    order[first], order[second] = second, first
    return _permuted(dims, order)


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
    dims = walk.grids(node.args[0])
    # numpy moves the axes of a marker whose lengths are the axes' own numbers
    marker = np.empty(range(1, len(dims) + 1))
    moved = np.moveaxis(marker, node.args[1], node.args[2])  # type: ignore[arg-type]
    return _permuted(dims, [length - 1 for length in moved.shape])


# ---- find which part of a split dimension becomes a batch dimension of a matrix product: the head


MAX_STEPS = 200


def batch_axis_of_attention(node: fx.Node, axes: list[int]) -> int | None:
    """The first of ``axes`` of the node's result that a matrix product treats as batch, if any."""
    return next((axis for axis in axes if _becomes_batch(node, axis)), None)


def _becomes_batch(start: fx.Node, start_axis: int) -> bool:
    """Follow one axis forward until something multiplies matrices."""
    queue = deque([(start, start_axis)])
    seen = {(start, start_axis)}
    while queue and len(seen) < MAX_STEPS:
        node, axis = queue.popleft()
        for user in node.users:
            if operator_of(user).is_batched:
                if axis < _rank(node) - 2:
                    return True
                continue
            if op_name(user) == "einsum":
                if _is_einsum_batch(user, node, axis):
                    return True
                continue
            following = _next_axis(user, node, axis)
            if following is not None and (user, following) not in seen:
                seen.add((user, following))
                queue.append((user, following))
    return False


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = value[0]
    return value.dim() if isinstance(value, Tensor) else 0


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return hint_shape(value) if isinstance(value, Tensor) else ()


def _is_einsum_batch(user: fx.Node, node: fx.Node, axis: int) -> bool:
    inputs, _, output = str(user.args[0]).replace(" ", "").partition("->")
    operands = user.args[1]
    assert isinstance(operands, (list, tuple))
    letters = inputs.split(",")[operands.index(node)]
    letter = letters[axis] if axis < len(letters) else "."
    return letter in output and sum(letter in part for part in inputs.split(",")) > 1


def _next_axis(user: fx.Node, node: fx.Node, axis: int) -> int | None:
    """Where ``axis`` of ``node`` is in the result of ``user``, or None if it can't be told."""
    name, kind, rank = op_name(user), kind_of(user), _rank(node)
    if kind in {"layer", "join"} or name == "addmm":
        return None
    if name == "permute":
        order = user.args[1]
        assert isinstance(order, (list, tuple))
        places = [normal_dim(place, rank) for place in order if isinstance(place, int)]
        return places.index(axis)
    if kind == "transpose":
        pair = user.args[1:3] if len(user.args) > 2 else (rank - 2, rank - 1)
        first, second = (normal_dim(place, rank) for place in pair if isinstance(place, int))
        return {first: second, second: first}.get(axis, axis)
    if name in {"unbind", "select"}:
        given = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
        dim = normal_dim(given if isinstance(given, int) else 0, rank)
        return None if axis == dim else axis - (axis > dim)
    if kind == "reshape":
        return _axis_after_reshape(_shape(node), _shape(user), axis)
    if kind in {"cut", "pieces"} or name == "repeat_interleave":
        return axis
    shape = _shape(user)
    if len(shape) >= rank and shape and _keeps(shape, _shape(node), axis):
        return axis + len(shape) - rank
    return None


def _keeps(shape: tuple[int, ...], before: tuple[int, ...], axis: int) -> bool:
    return shape[axis + len(shape) - len(before)] == before[axis]


def _axis_after_reshape(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    for sources, targets in segments(before, after):
        if axis in sources:
            return targets[0] if len(targets) == 1 else None
    return None


Segment = tuple[tuple[int, ...], tuple[int, ...]]


def segments(source: tuple[int, ...], target: tuple[int, ...]) -> list[Segment]:
    """Pairs of (source axes, target axes) with equal products; axes of length 1 are left out.

    ``(2, 3, 8) -> (6, 2, 4)`` gives ``[((0, 1), (0,)), ((2,), (1, 2))]``.
    """
    left = [axis for axis, length in enumerate(source) if length != 1]
    right = [axis for axis, length in enumerate(target) if length != 1]
    result: list[Segment] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start_i, start_j = i, j
        product_left, product_right = source[left[i]], target[right[j]]
        i, j = i + 1, j + 1
        while product_left != product_right:
            if product_left < product_right:
                product_left *= source[left[i]]
                i += 1
            else:
                product_right *= target[right[j]]
                j += 1
        result.append((tuple(left[start_i:i]), tuple(right[start_j:j])))
    return result


@rewrite("unflatten")
def rewrite_unflatten(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Give the parts their kept lengths."""
    given, sizes = original.args[1], original.args[2]
    assert isinstance(given, int)
    assert isinstance(sizes, (list, tuple))
    dim = normal_dim(given, len(rewriter.units(original.args[0])))
    new = [
        size if size == -1 else rewriter.kept(original, dim + offset)
        for offset, size in enumerate(sizes)
    ]
    node.update_arg(2, new)
