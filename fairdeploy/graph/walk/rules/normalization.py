"""Norms: batch norm keeps a channel to itself; others mix the channels they take statistics over.

Root mean squares stay exact when channels go, and so do group norms that lose whole groups. A layer
norm freezes its channels, unless the walk may couple them.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from fairdeploy.graph.call_facts import argument
from fairdeploy.graph.unit_graph import Coupled
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import Dims, Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules.registry import rewrite, rule


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def batch_norm(walk: Propagation, node: fx.Node) -> Value:
    """Weight, bias, mean and variance go with their channel."""
    dims = walk.dims(node.args[0])
    for vector in node.args[1:5]:
        if walk.is_tensor(vector):
            walk.tie(dims[1], walk.dims(vector)[0])
    if argument(node, 5, "training", False):
        for index, labels in enumerate(dims):
            if index != 1:
                walk.freeze(labels, "statistics are taken over this dimension")
    return dims


@rule("layer_norm")
def layer_norm(walk: Propagation, node: fx.Node) -> Value:
    """Removing an index would change the statistics of the others: not exact, so it stays."""
    dims, normalized = _normalized(walk, node)
    vectors = [walk.dims(vector) for vector in node.args[2:4] if walk.is_tensor(vector)]
    if walk.allow_norm_coupled:
        return _coupled(walk, node, dims, normalized, vectors)
    return _frozen(walk, dims, normalized, vectors, "a layer norm")


@rule("rms_norm")
def rms_norm(walk: Propagation, node: fx.Node) -> Value:
    """A zeroed index adds nothing to the squares; the rewrite corrects what they are divided by."""
    dims, normalized = _normalized(walk, node)
    for dim in normalized:
        walk.contract(node, node.args[0], dim, is_alone=True)
    weight = argument(node, 2, "weight")
    if walk.is_tensor(weight):
        _tie_each(walk, [dims[dim] for dim in normalized], walk.dims(weight))
    return dims


@rule("_fused_rms_norm", "native_layer_norm")
def norm_with_statistics(walk: Propagation, node: fx.Node) -> Value:
    """What norms decompose to: several results, so the channels stay."""
    dims, normalized = _normalized(walk, node)
    vectors = [walk.dims(vector) for vector in node.args[2:4] if walk.is_tensor(vector)]
    _frozen(walk, dims, normalized, vectors, "a layer norm")
    results = walk.fixed_like(node)
    return [dims, *results[1:]] if isinstance(results, list) else dims


@rule("group_norm")
def group_norm(walk: Propagation, node: fx.Node) -> Value:
    """Whole groups go. One group for all channels is a layer norm."""
    dims = walk.dims(node.args[0])
    groups = node.args[1]
    assert isinstance(groups, int)
    vectors = [walk.dims(vector) for vector in node.args[2:4] if walk.is_tensor(vector)]
    if groups == 1 and len(dims[1]) > 1:
        if walk.allow_norm_coupled:
            return _coupled(walk, node, dims, (1,), vectors)
        return _frozen(walk, dims, (1,), vectors, "a group norm of one group")
    blocks = dims[1].reshape(groups, -1)
    walk.tie_rows(blocks.T)
    for (labels,) in vectors:
        walk.tie(dims[1], labels)
    return dims


def _normalized(walk: Propagation, node: fx.Node) -> tuple[Dims, tuple[int, ...]]:
    """Labels of the input, and the dimensions that statistics are taken over."""
    dims = walk.dims(node.args[0])
    shape = node.args[1]
    assert isinstance(shape, (list, tuple))
    return dims, tuple(range(len(dims) - len(shape), len(dims)))


def _frozen(
    walk: Propagation, dims: Dims, normalized: tuple[int, ...], vectors: list[Dims], what: str
) -> Dims:
    reason = f"{what} takes its statistics over these channels"
    for dim in normalized:
        walk.freeze(dims[dim], reason)
    for vector in vectors:
        walk.freeze_all(vector, reason)
    return dims


def _coupled(
    walk: Propagation,
    node: fx.Node,
    dims: Dims,
    normalized: tuple[int, ...],
    vectors: list[Dims],
) -> Dims:
    """Let the channels go although the statistics change with them."""
    walk.coupled_norms.append(Coupled(node.name, normalized))
    for vector in vectors:
        _tie_each(walk, [dims[dim] for dim in normalized], vector)
    return dims


def _tie_each(walk: Propagation, data: list[Labels], vector: Dims) -> None:
    for labels, affine in zip(data, vector, strict=True):
        walk.tie(labels, affine)


@rule("local_response_norm")
def local_response_norm(walk: Propagation, node: fx.Node) -> Value:
    """Neighbouring channels are mixed."""
    dims = walk.dims(node.args[0])
    walk.freeze(dims[1], "a response norm mixes neighbouring channels")
    return dims


# ---- rewrites ------------------------------------------------------------------------------------


@rewrite("layer_norm")
def rewrite_layer_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Give a layer norm the kept lengths."""
    node.update_arg(1, rewriter.kept_shape(original))


@rewrite("rms_norm")
def rewrite_rms_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Correct what the norm divides by: in its weight where nothing else reads that.

    The zeroed original divides by the old length ``n``, the shrunk network by the kept length
    ``k``: ``x / sqrt(sum / n + eps) * w`` is ``x / sqrt(sum / k + eps n / k) * w sqrt(n / k)``.
    """
    shape = rewriter.kept_shape(original)
    ratio = math.prod(original.args[1]) / math.prod(shape)  # type: ignore[arg-type]
    if ratio == 1.0:
        return
    eps = argument(original, 3, "eps")
    if eps is None:
        eps = torch.finfo(original.meta["val"].dtype).eps
    assert isinstance(eps, float)
    weight = node.args[2] if len(node.args) > 2 else None
    node.args = (node.args[0], shape, weight, eps * ratio)
    if not rewriter.scale_weight(node, 2, math.sqrt(ratio)):
        rewriter.multiply_result(node, math.sqrt(ratio))


@rewrite("group_norm")
def rewrite_group_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Whole groups have gone, or channels of the only one."""
    groups = original.args[1]
    assert isinstance(groups, int)
    if groups > 1 and rewriter.changes(original.args[0], 1):
        kept, old = rewriter.kept(original.args[0], 1), rewriter.length(original.args[0], 1)
        node.update_arg(1, kept * groups // old)
