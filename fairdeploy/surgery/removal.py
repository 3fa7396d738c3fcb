"""Physically remove units: slice every tensor and rewrite the graph's constants."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.errors import UsageError
from fairdeploy.graph.call_facts import delete_tensor, fetch_tensor
from fairdeploy.graph.capture.capture import quiet_export
from fairdeploy.graph.operators import gives_back, operator_of
from fairdeploy.graph.residual_branches import is_check
from fairdeploy.graph.unit_graph import KEPT, Branch, UnitGraph, UnitIds
from fairdeploy.graph.walk.label_grids import rows_of
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules import rewrite_of


@dataclass(frozen=True, slots=True)
class ShrunkNetwork:
    """The graph module without the removed units; nodes keep their names, tensors their own."""

    module: fx.GraphModule


def remove_units(graph: UnitGraph, removed: NDArray[np.bool_]) -> ShrunkNetwork:
    """Build the network without the units marked in ``removed``.

    Args:
        graph: Not changed; tensors that lose nothing are copied too.
        removed: Boolean, shape [num_units].
    """
    stays = StayingIndices(graph, removed)
    sliced: dict[str, Tensor] = {}
    for name, dims in graph.tensor_units.items():
        tensor = fetch_tensor(graph.module, name)
        assert tensor is not None
        sliced[name] = slice_tensor(tensor, tuple(stays.mask(units) for units in dims))
    module = with_tensors(graph.module, sliced)
    rewriter = Rewriter(graph, module, stays.count)
    for original, node in zip(graph.module.graph.nodes, list(module.graph.nodes), strict=True):
        rewrite = rewrite_of(node) if node.op == "call_function" else None
        if rewrite is not None:
            rewrite(rewriter, original, node)
    cut_branches(module, graph.branches_gone(removed))
    module.graph.lint()
    module.recompile()
    return ShrunkNetwork(module.eval())


class StayingIndices:
    """Which indices of a dimension stay when some units go."""

    def __init__(self, graph: UnitGraph, removed: NDArray[np.bool_]) -> None:
        self._stays = graph.staying(removed)

    def mask(self, units: UnitIds) -> NDArray[np.bool_]:
        """Boolean per index."""
        assert KEPT == -1
        result: NDArray[np.bool_] = self._stays[units]
        return result

    def count(self, units: UnitIds, dim: int = 0) -> int:
        """How many indices of dimension ``dim`` stay."""
        return int(rows_of(self.mask(units), dim)[0].sum())


def slice_tensor(tensor: Tensor, masks: tuple[NDArray[np.bool_], ...]) -> Tensor:
    """A contiguous copy of ``tensor`` with only some indices in each dimension.

    Args:
        tensor: The original, of rank R.
        masks: Per dimension, which indices stay: shape [length], or with R axes where that differs
            along other dimensions; then equally many stay everywhere.
    """
    result = tensor.detach()
    plain = [torch.from_numpy(np.flatnonzero(mask)) if mask.ndim == 1 else None for mask in masks]
    for dim, mask in enumerate(masks):
        if mask.ndim > 1 and mask.ndim == tensor.dim():
            result = _slice_blocks(result, mask, dim)
    for dim, kept in enumerate(plain):
        if kept is not None and len(kept) < result.shape[dim]:
            result = result.index_select(dim, kept.to(result.device))
    return result.clone(memory_format=torch.contiguous_format)


def _slice_blocks(tensor: Tensor, mask: NDArray[np.bool_], dim: int) -> Tensor:
    """Keep the indices of ``dim`` that the mask names, block by block of the other dimensions."""
    count = int(rows_of(mask, dim)[0].sum())
    assert (rows_of(mask, dim).sum(axis=1) == count).all(), "blocks keep different numbers"
    # places of the staying indices first, in order
    places = np.argsort(~mask, axis=dim, kind="stable").take(np.arange(count), axis=dim)
    shape = list(tensor.shape)
    shape[dim] = count
    index = torch.from_numpy(np.ascontiguousarray(places)).to(tensor.device)
    return tensor.gather(dim, index.expand(shape))


def with_tensors(module: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """A copy of the graph module that owns these tensors instead of the originals."""
    memo: dict[int, object] = {}
    for name, tensor in tensors.items():
        original = fetch_tensor(module, name)
        assert original is not None
        is_parameter = isinstance(original, nn.Parameter)
        replacement = (
            nn.Parameter(tensor, requires_grad=original.requires_grad) if is_parameter else tensor
        )
        memo[id(original)] = replacement
    with quiet_export():
        result = copy.deepcopy(module, memo)
    assert isinstance(result, fx.GraphModule)
    return result


# ---- take residual branches out of a graph: the sum gives back its shortcut, the rest goes -------


aten = torch.ops.aten


def cut_branches(module: fx.GraphModule, branches: Iterable[Branch]) -> None:
    """Remove branches, with the tensors that only they read (changes ``module``)."""
    branches = tuple(branches)
    nodes = {node.name: node for node in module.graph.nodes}
    gone: set[str] = set()
    freed: set[fx.Node] = set()
    for branch in branches:
        total = nodes[branch.total]
        _pass_on(total, nodes[branch.shortcut])
        for user in list(total.users):
            source = _source(total)
            if _repeats(user, source):
                _pass_on(user, total)
        gone |= branch.nodes
    tensors = {name for branch in branches for name in branch.tensors}
    for node in reversed(list(module.graph.nodes)):
        is_own = node.op == "get_attr" and str(node.target) in tensors
        is_check_of_gone = is_check(node) and any(s.name in gone for s in node.all_input_nodes)
        goes = node.name in gone or node in freed or is_own or is_check_of_gone
        if goes and not node.users and node.op != "placeholder":
            freed.update(node.all_input_nodes)
            module.graph.erase_node(node)
    for name in tensors:
        if fetch_tensor(module, name) is not None:
            delete_tensor(module, name)


def _pass_on(node: fx.Node, value: fx.Node) -> None:
    """Let ``node`` be the same as ``value`` (changes it)."""
    node.target, node.args, node.kwargs = aten.alias.default, (value,), {}


def _source(node: fx.Node) -> fx.Node:
    """Where a value that is passed on comes from."""
    while gives_back(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _repeats(user: fx.Node, source: fx.Node) -> bool:
    """Whether ``user`` does to its input what ``source`` has just done to its own."""
    return (
        operator_of(user).is_idempotent
        and user.target is source.target
        and user.args[1:] == source.args[1:]
        and user.kwargs == source.kwargs
    )


def full_size(graph: UnitGraph, shrunk: fx.GraphModule, removed: NDArray[np.bool_]) -> UnitGraph:
    """The unit graph with a network that computes what ``shrunk`` computes.

    What went is zero, the rest is as it is now: so a network that was repaired or trained after a
    first removal can be scored and shrunk further with the unit graph of the original.

    Args:
        graph: Of the original, which is not changed.
        shrunk: The network without the removed units; its tensors may have been changed.
        removed: Boolean, shape [num_units].

    Raises:
        UsageError: Units of one tensor went from different places in each of its blocks.
    """
    stays = StayingIndices(graph, removed)
    tensors: dict[str, Tensor] = {}
    for name, dims in graph.tensor_units.items():
        original, now = fetch_tensor(graph.module, name), fetch_tensor(shrunk, name)
        assert original is not None
        assert now is not None
        masks = [stays.mask(units) for units in dims]
        tensors[name] = _grown(original.detach(), now.detach(), masks, _start(original))
    return replace(graph, module=with_tensors(graph.module, tensors))


def _start(original: Tensor) -> Tensor:
    """Zeros, so that what went computes zero; statistics stay, because a variance must not be."""
    if isinstance(original, nn.Parameter):
        return torch.zeros_like(original.detach())
    return original.detach().clone()


def _grown(original: Tensor, now: Tensor, masks: list[NDArray[np.bool_]], start: Tensor) -> Tensor:
    if now.shape == original.shape:
        return now.clone()
    if any(mask.ndim > 1 for mask in masks):
        raise UsageError(
            "--steps cannot go on where each block of a layer lost other units (channels within "
            "attention heads, groups of a convolution); prune in one step"
        )
    places = np.ix_(*(np.flatnonzero(mask) for mask in masks))
    start[tuple(torch.from_numpy(index) for index in places)] = now
    return start
