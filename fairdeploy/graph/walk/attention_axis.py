"""Find which part of a split dimension becomes a batch dimension of a matrix product: the heads."""

from __future__ import annotations

from collections import deque

from torch import Tensor, fx

from fairdeploy.graph.call_facts import hint_shape, normal_dim
from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.graph.walk.shape_segments import segments

MAX_STEPS = 200
_PRODUCTS = {"matmul", "bmm", "scaled_dot_product_attention", "baddbmm"}
_RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}


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
            name = op_name(user)
            if name in _PRODUCTS:
                if axis < _rank(node) - 2:
                    return True
                continue
            if name == "einsum":
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
    name, rank = op_name(user), _rank(node)
    if name in {"linear", "conv1d", "conv2d", "conv3d", "addmm", "cat", "stack"}:
        return None
    if name == "permute":
        order = user.args[1]
        assert isinstance(order, (list, tuple))
        places = [normal_dim(place, rank) for place in order if isinstance(place, int)]
        return places.index(axis)
    if name in {"transpose", "swapaxes", "t", "numpy_T", "mT", "adjoint"}:
        pair = user.args[1:3] if len(user.args) > 2 else (rank - 2, rank - 1)
        first, second = (normal_dim(place, rank) for place in pair if isinstance(place, int))
        return {first: second, second: first}.get(axis, axis)
    if name in {"unbind", "select"}:
        given = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim", 0)
        dim = normal_dim(given if isinstance(given, int) else 0, rank)
        return None if axis == dim else axis - (axis > dim)
    if name in _RESHAPES:
        return _axis_after_reshape(_shape(node), _shape(user), axis)
    if name in {"repeat_interleave", "getitem", "split", "split_with_sizes", "chunk", "slice"}:
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
