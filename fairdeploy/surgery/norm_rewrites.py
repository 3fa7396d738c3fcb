"""Rewrite norms and means for fewer indices: sizes, groups, and what they divide by.

The zeroed original divides by the old length ``n``, the shrunk network by the kept length ``k``. A
mean is multiplied by ``k / n``. A root mean square norm has ``x / sqrt(sum / n + eps) * w``, which
is ``x / sqrt(sum / k + eps n / k) * w sqrt(n / k)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import fx

from fairdeploy.graph.call_facts import argument, fetch_tensor, fetches_of
from fairdeploy.graph.walk.rules.reduction import reduced_dims
from fairdeploy.surgery.divided_norms import fold_ratio, norm_after_mean

if TYPE_CHECKING:
    from fairdeploy.surgery.graph_rewrite import Rewriter


def rewrite_layer_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Give a layer norm the kept lengths."""
    node.update_arg(1, _kept_shape(rewriter, original))


def rewrite_rms_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Correct what the norm divides by: in its weight where nothing else reads that."""
    shape = _kept_shape(rewriter, original)
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


def rewrite_group_norm(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    """Whole groups have gone, or channels of the only one."""
    groups = original.args[1]
    assert isinstance(groups, int)
    if groups > 1 and rewriter.changes(original.args[0], 1):
        kept, old = rewriter.kept(original.args[0], 1), rewriter.length(original.args[0], 1)
        node.update_arg(1, kept * groups // old)


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


def scale_unshared_weight(module: fx.GraphModule, node: fx.Node, index: int, factor: float) -> bool:
    """Multiply a parameter by ``factor`` in place if only this call reads it; tell whether."""
    weight = node.args[index]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    tensor = fetch_tensor(module, str(weight.target))
    if tensor is None:
        return False
    if [user for fetch in fetches_of(module, tensor) for user in fetch.users] != [node]:
        return False
    with torch.no_grad():
        tensor.mul_(factor)
    return True


def _kept_shape(rewriter: Rewriter, original: fx.Node) -> list[int]:
    shape = original.args[1]
    assert isinstance(shape, (list, tuple))
    rank = len(rewriter.units(original.args[0]))
    return [rewriter.kept(original.args[0], dim) for dim in range(rank - len(shape), rank)]
