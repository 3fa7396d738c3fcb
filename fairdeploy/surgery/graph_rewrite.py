"""Rewrite the numbers that a captured graph has baked in: sizes, bounds, groups, scales.

The labels give every new length. A size that the graph computes, say from the batch, is scaled by
an exact ratio, unless what it is computed from shrinks just as much.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fairdeploy.graph.call_facts import argument, hint_of, normal_dim
from fairdeploy.graph.operators import op_name, operator_of
from fairdeploy.graph.unit_graph import UnitGraph, UnitIds
from fairdeploy.graph.walk.label_grids import length_of
from fairdeploy.graph.walk.rules.indexing import slice_bounds
from fairdeploy.surgery.norm_rewrites import (
    rewrite_group_norm,
    rewrite_layer_norm,
    rewrite_mean,
    rewrite_rms_norm,
    scale_unshared_weight,
)

CountKept = Callable[[UnitIds, int], int]
"""How many indices of a dimension stay, from their units and the dimension's place."""
Rewrite = Callable[["Rewriter", fx.Node, fx.Node], None]

_SIZE_ARITHMETIC = {
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg,
    torch.sym_int, torch.sym_max, torch.sym_min,
}  # fmt: skip


def rewrite_constants(graph: UnitGraph, module: fx.GraphModule, count: CountKept) -> None:
    """Change ``module``, a copy of ``graph.module``, so that its constants fit the kept indices."""
    rewriter = Rewriter(graph, module, count)
    for original, node in zip(graph.module.graph.nodes, list(module.graph.nodes), strict=True):
        if node.op == "call_function":
            rewriter.rewrite(original, node)


class Rewriter:
    """Knows old and new lengths; nodes of the original graph name the values."""

    def __init__(self, graph: UnitGraph, module: fx.GraphModule, count: CountKept) -> None:
        self.graph = graph
        self.module = module
        self.count = count

    def rewrite(self, original: fx.Node, node: fx.Node) -> None:
        """Change ``node`` if its operator has numbers that depend on lengths."""
        name = op_name(node)
        sizes = operator_of(node).sizes
        if sizes is not None:
            self._sizes(original, node, sizes)
        elif name in _REWRITES:
            _REWRITES[name](self, original, node)

    def units(self, value: object) -> tuple[UnitIds, ...]:
        """Unit numbers of each dimension of a value of the original graph."""
        assert isinstance(value, fx.Node)
        if value.op == "get_attr":
            return self.graph.tensor_units[str(value.target)]
        return self.graph.value_units[value.name]

    def kept(self, value: object, dim: int) -> int:
        """New length of a dimension of a value of the original graph."""
        return self.count(self.units(value)[dim], dim)

    def length(self, value: object, dim: int) -> int:
        """Length before the surgery."""
        return length_of(self.units(value)[dim], dim)

    def kept_between(self, value: object, dim: int, start: int, stop: int | None = None) -> int:
        """How many of the indices from ``start`` to ``stop`` stay."""
        units = self.units(value)[dim]
        window = (slice(None),) * (dim if units.ndim > 1 else 0) + (slice(start, stop),)
        return self.count(units[window], dim)

    def changes(self, value: object, dim: int) -> bool:
        """Whether the dimension loses anything."""
        return self.kept(value, dim) != self.length(value, dim)

    def set_argument(self, node: fx.Node, index: int, name: str, value: object) -> None:
        """Change an argument that was given by position or by name (changes ``node``)."""
        if len(node.args) > index:
            node.update_arg(index, value)  # type: ignore[arg-type]
        else:
            node.update_kwarg(name, value)  # type: ignore[arg-type]

    def multiply_result(self, node: fx.Node, factor: float) -> None:
        """Let ``node`` be ``factor`` times what it was; the old call gets a name of its own."""
        with self.module.graph.inserting_before(node):
            call = self.module.graph.call_function(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        call.meta = dict(node.meta)
        node.target, node.args, node.kwargs = torch.ops.aten.mul.Tensor, (call, factor), {}

    def scale_weight(self, node: fx.Node, index: int, factor: float) -> bool:
        """Multiply a parameter that only this call reads; tell whether that could be done."""
        return scale_unshared_weight(self.module, node, index, factor)

    def _sizes(self, original: fx.Node, node: fx.Node, index: int) -> None:
        if original.name not in self.graph.value_units:
            return
        given, before = node.args[index], original.args[index]
        assert isinstance(given, (list, tuple))
        assert isinstance(before, (list, tuple))
        sizes = list(given)
        for dim, (size, computed) in enumerate(zip(given, before, strict=True)):
            if isinstance(computed, fx.Node):
                sizes[dim] = self.scaled(node, size, computed, self.kept(original, dim))
            elif size != -1 and self.changes(original, dim):
                sizes[dim] = self.kept(original, dim)
        node.update_arg(index, sizes)

    def scaled(self, node: fx.Node, size: Any, computed: fx.Node, new: int) -> Any:
        """A size that the graph computes, times what it lacks to be right for the kept indices."""
        found = self._after(computed)
        if found == new or found == 0:
            return size
        shared = math.gcd(new, found)
        with self.module.graph.inserting_before(node):
            product = self.module.graph.call_function(operator.mul, (size, new // shared))
            return self.module.graph.call_function(operator.floordiv, (product, found // shared))

    def _after(self, computed: fx.Node) -> int:
        """What a size computed in the original graph comes to in the new one, for the example.

        0 where the data decide it: then the code that computes it is right as it is.
        """
        name = op_name(computed)
        if name == "sym_size" and isinstance(computed.args[0], fx.Node):
            source, given = computed.args[0], argument(computed, 1, "dim", 0)
            if source.op == "get_attr" or source.name in self.graph.value_units:
                assert isinstance(given, int)
                return self.kept(source, normal_dim(given, len(self.units(source))))
        if computed.op == "call_function" and computed.target in _SIZE_ARITHMETIC:
            values = [
                self._after(part) if isinstance(part, fx.Node) else part for part in computed.args
            ]
            return int(computed.target(*values))
        return hint_of(computed.meta["val"]) or 0


def _conv(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    index = operator_of(node).groups
    assert index is not None
    groups = argument(node, index, "groups", 1)
    if groups == 1:
        return
    if op_name(node) == "convolution" and original.args[6]:
        _transposed(rewriter, original, node)
        return
    data, weight = rewriter.units(original.args[0]), rewriter.units(original.args[1])
    inputs = rewriter.kept(original.args[0], len(data) - len(weight) + 1)
    new = inputs // rewriter.kept(original.args[1], 1)
    before = argument(original, index, "groups", 1)
    if isinstance(before, fx.Node):  # it counts with the batch
        new = rewriter.scaled(node, groups, before, new)
    rewriter.set_argument(node, index, "groups", new)


def _transposed(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    index = operator_of(node).groups
    assert index is not None
    groups = argument(node, index, "groups", 1)
    assert isinstance(groups, int)
    size = rewriter.length(original.args[1], 0) // groups
    left = sum(
        rewriter.kept_between(original.args[1], 0, start, start + size) > 0
        for start in range(0, groups * size, size)
    )
    if left != groups:
        rewriter.set_argument(node, index, "groups", left)


def _split(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    given = argument(node, 2, "dim", 0)
    assert isinstance(given, int)
    dim = normal_dim(given, len(rewriter.units(original.args[0])))
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


def _slice(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    given = argument(node, 1, "dim", 0)
    assert isinstance(given, int)
    source = rewriter.units(original.args[0])
    dim = normal_dim(given, len(source))
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


def _narrow(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    _, given, start, length = original.args
    assert isinstance(given, int)
    source = rewriter.units(original.args[0])
    dim = normal_dim(given, len(source))
    if rewriter.changes(original.args[0], dim):
        assert isinstance(start, int)
        assert isinstance(length, int)
        before = rewriter.kept_between(original.args[0], dim, 0, start)
        kept = rewriter.kept_between(original.args[0], dim, start, start + length)
        node.args = (node.args[0], dim, before, kept)


def _pad(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    amounts = original.args[1]
    assert isinstance(amounts, (list, tuple))
    new = list(amounts)
    for pair in range(len(amounts) // 2):
        dim = len(rewriter.units(original)) - 1 - pair
        before = amounts[2 * pair]
        if rewriter.changes(original, dim) and isinstance(before, int):
            inside = before + rewriter.length(original.args[0], dim)
            new[2 * pair] = rewriter.kept_between(original, dim, 0, before)
            new[2 * pair + 1] = rewriter.kept_between(original, dim, inside)
    node.update_arg(1, new)


def _attention(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    query = rewriter.units(original.args[0])
    if argument(node, 6, "scale") is None and rewriter.changes(original.args[0], len(query) - 1):
        width = rewriter.length(original.args[0], len(query) - 1)
        node.update_kwarg("scale", 1.0 / math.sqrt(width))


def _unflatten(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
    given, sizes = original.args[1], original.args[2]
    assert isinstance(given, int)
    assert isinstance(sizes, (list, tuple))
    dim = normal_dim(given, len(rewriter.units(original.args[0])))
    new = [
        size if size == -1 else rewriter.kept(original, dim + offset)
        for offset, size in enumerate(sizes)
    ]
    node.update_arg(2, new)


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(
        ("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk"),
        _split,
    ),
    "slice": _slice,
    "narrow": _narrow,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "scaled_dot_product_attention": _attention,
    "group_norm": rewrite_group_norm,
    "layer_norm": rewrite_layer_norm,
    "rms_norm": rewrite_rms_norm,
    "mean": rewrite_mean,
    "unflatten": _unflatten,
}
