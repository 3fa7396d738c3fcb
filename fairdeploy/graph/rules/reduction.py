"""Reductions and softmax: what they mix must stay; the other dimensions pass."""

from __future__ import annotations

from torch import fx

from fairdeploy.graph.functionalize import op_name
from fairdeploy.graph.propagation import Dims, Propagation, Value, normal_dim, result_shape
from fairdeploy.graph.rules.registry import rule


def _reduced_dims(node: fx.Node, position: int, rank: int) -> tuple[int, ...]:
    names = ("dim", "dims", "axis")
    given = node.args[position] if len(node.args) > position else None
    for name in names:
        given = node.kwargs.get(name, given)
    if isinstance(given, int) and not isinstance(given, bool):
        return (normal_dim(given, rank),)
    if isinstance(given, (list, tuple)) and given:
        return tuple(normal_dim(dim, rank) for dim in given if isinstance(dim, int))
    return tuple(range(rank))


def _reduce(walk: Propagation, node: fx.Node, position: int) -> Value:
    dims = walk.dims(node.args[0])
    reduced = _reduced_dims(node, position, len(dims))
    for dim in reduced:
        walk.freeze(dims[dim], f"'{op_name(node)}' mixes this dimension")
    results = walk.fixed_like(node)
    if isinstance(results, list):
        first = node.meta["val"][0]
        return [_kept(walk, dims, reduced, first.dim()) for _ in results]
    return _kept(walk, dims, reduced, len(result_shape(node)))


def _kept(walk: Propagation, dims: Dims, reduced: tuple[int, ...], rank: int) -> Value:
    if rank == len(dims):
        return tuple(walk.fixed(1) if dim in reduced else dims[dim] for dim in range(rank))
    return tuple(labels for dim, labels in enumerate(dims) if dim not in reduced)


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "prod", "argmax",
      "argmin", "any", "all", "var_mean", "std_mean", "median", "nansum")  # fmt: skip
def reduce(walk: Propagation, node: fx.Node) -> Value:
    """Reductions over one, some or all dimensions; two-tensor ``max`` and ``min`` are pointwise."""
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        from fairdeploy.graph.rules.elementwise import pointwise

        return pointwise(walk, node)
    return _reduce(walk, node, 1)


@rule("linalg_vector_norm", "norm")
def vector_norm(walk: Propagation, node: fx.Node) -> Value:
    """A norm of a vector mixes its elements."""
    return _reduce(walk, node, 2)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "softmin", "sort",
      "argsort")  # fmt: skip
def mix(walk: Propagation, node: fx.Node) -> Value:
    """Same shape out, but every element depends on all along one dimension."""
    dims = walk.dims(node.args[0])
    for dim in _reduced_dims(node, 1, len(dims)):
        walk.freeze(dims[dim], f"'{op_name(node)}' mixes this dimension")
    results = walk.fixed_like(node)
    return [dims for _ in results] if isinstance(results, list) else dims


@rule("topk")
def topk(walk: Propagation, node: fx.Node) -> Value:
    """Which elements are chosen depends on all of them."""
    dims = list(walk.dims(node.args[0]))
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    assert isinstance(given, int)
    walk.freeze(dims[given], "'topk' mixes this dimension")
    dims[given] = walk.fixed(node.meta["val"][0].shape[given])
    return [tuple(dims), tuple(dims)]
