"""Reductions and softmax: what they mix must stay; the other dimensions pass.

Sums and norms of vectors are the exception: an index that is gone adds nothing. So are means, as
long as the old length divides: their rewrite multiplies by the share that is left.
"""

from __future__ import annotations

import math

from torch import Tensor, fx

from fairdeploy.graph.call_facts import normal_dim, result_shape
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.walk.divided_norms import fold_ratio, norm_after_mean
from fairdeploy.graph.walk.propagation import Dims, Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.registry import rewrite, rule


def reduced_dims(node: fx.Node, position: int, rank: int) -> tuple[int, ...]:
    """Dimensions that a call reduces, counted from the front; all of them if it names none."""
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
    reduced = reduced_dims(node, position, len(dims))
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


def _add_up(walk: Propagation, node: fx.Node, position: int) -> Value:
    """A reduction to which a zero adds nothing: its dimensions may shrink."""
    source = node.args[0]
    dims = walk.dims(source)
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return _reduce(walk, node, position)
    reduced = reduced_dims(node, position, len(dims))
    for dim in reduced:
        walk.contract(node, source, dim, is_alone=True)
    return _kept(walk, dims, reduced, len(result_shape(node)))


def _is_subtracted_from_its_source(node: fx.Node) -> bool:
    """Whether a mean centres what it was taken of: a layer norm written by hand."""
    return any(
        op_name(user) in {"sub", "rsub", "subtract"} and node.args[0] in user.all_input_nodes
        for user in node.users
    )


@rule("sum", "nansum")
def add_up(walk: Propagation, node: fx.Node) -> Value:
    """Sums over one, some or all dimensions."""
    return _add_up(walk, node, 1)


@rule("mean")
def mean(walk: Propagation, node: fx.Node) -> Value:
    """Means over one, some or all dimensions, unless statistics are taken."""
    if _is_subtracted_from_its_source(node):
        return _reduce(walk, node, 1)
    return _add_up(walk, node, 1)


@rule("amax", "amin", "max", "min", "var", "std", "logsumexp", "prod", "argmax", "argmin", "any",
      "all", "var_mean", "std_mean", "median")  # fmt: skip
def reduce(walk: Propagation, node: fx.Node) -> Value:
    """Reductions over one, some or all dimensions; two-tensor ``max`` and ``min`` are pointwise."""
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        from fairdeploy.graph.walk.rules.elementwise import pointwise

        return pointwise(walk, node)
    return _reduce(walk, node, 1)


@rule("linalg_vector_norm", "norm")
def vector_norm(walk: Propagation, node: fx.Node) -> Value:
    """The length of a vector, to which a zero adds nothing; not so for orders below 1."""
    order = node.args[1] if len(node.args) > 1 else node.kwargs.get("ord", 2)
    if isinstance(order, (int, float)) and 1 <= order < math.inf:
        return _add_up(walk, node, 2)
    return _reduce(walk, node, 2)


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "softmin", "sort",
      "argsort")  # fmt: skip
def mix(walk: Propagation, node: fx.Node) -> Value:
    """Same shape out, but every element depends on all along one dimension."""
    dims = walk.dims(node.args[0])
    for dim in reduced_dims(node, 1, len(dims)):
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


@rewrite("mean")
def rewrite_mean(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Divide by the old length: in the weight of a norm written out by hand, else here."""
    source = original.args[0]
    dims = reduced_dims(original, 1, len(rewriter.units(source)))
    kept = math.prod(rewriter.kept(source, dim) for dim in dims)
    old = math.prod(rewriter.length(source, dim) for dim in dims)
    if kept == old:
        return
    norm = norm_after_mean(rewriter.module, node)
    if norm is None:
        rewriter.multiply_result(node, kept / old)
    else:
        fold_ratio(rewriter.module, norm, old / kept)
