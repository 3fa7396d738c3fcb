"""What rewrites use: they fit the numbers that a captured graph has baked in to the kept indices.

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

from fairdeploy.graph.call_facts import argument, fetch_tensor, fetches_of, hint_of, normal_dim
from fairdeploy.graph.operators import op_name, operator_of
from fairdeploy.graph.unit_graph import UnitGraph, UnitIds
from fairdeploy.graph.walk.label_grids import length_of

CountKept = Callable[[UnitIds, int], int]
"""How many indices of a dimension stay, from their units and the dimension's place."""

_SIZE_ARITHMETIC = {
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg,
    torch.sym_int, torch.sym_max, torch.sym_min,
}  # fmt: skip


class Rewriter:
    """Knows old and new lengths; nodes of the original graph name the values."""

    def __init__(self, graph: UnitGraph, module: fx.GraphModule, count: CountKept) -> None:
        self.graph = graph
        self.module = module
        self.count = count

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
        """Multiply a parameter in place if only this call reads it; tell whether."""
        weight = node.args[index]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return False
        tensor = fetch_tensor(self.module, str(weight.target))
        if tensor is None:
            return False
        if [user for fetch in fetches_of(self.module, tensor) for user in fetch.users] != [node]:
            return False
        with torch.no_grad():
            tensor.mul_(factor)
        return True

    def kept_shape(self, original: fx.Node) -> list[int]:
        """The kept lengths of the last dimensions, over which a norm takes statistics."""
        source, shape = original.args[:2]
        assert isinstance(shape, (list, tuple))
        rank = len(self.units(source))
        return [self.kept(source, dim) for dim in range(rank - len(shape), rank)]

    def resize(self, original: fx.Node, node: fx.Node) -> None:
        """Change the sizes that a call names for its result (changes ``node``)."""
        index = operator_of(node).sizes
        if index is None or original.name not in self.graph.value_units:
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


Rewrite = Callable[[Rewriter, fx.Node, fx.Node], None]
"""Changes a call, given last; its twin in the original graph says which values it reads."""
