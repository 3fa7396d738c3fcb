"""One walk through the graph that gives every index of every value its label.

A rule per operator (``rules``) says which indices live or die together. An operator without a rule
freezes what it touches and is reported: never wrong, only less prunable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor, fx

from fairdeploy.graph.call_facts import (
    UnlabelledError,
    fetch_tensor,
    has_size_from_data,
    hint_shape,
)
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import Contracted, Coupled
from fairdeploy.graph.walk.balance import Balance
from fairdeploy.graph.walk.label_grids import is_grid, length_of, rows_of
from fairdeploy.graph.walk.labels import FIXED, Labels, LabelStore

Dims = tuple[Labels, ...]
Value = Dims | list["Value"] | None
KERNEL = "inside of a kernel"
READS_FIXED = "reads something that cannot shrink"
UNREMARKABLE = {KERNEL, READS_FIXED}
"""Reasons that nobody needs to be told: the inside of a kernel, the side of a weight that reads."""
SIZE_FROM_DATA = "the data decide how many rows there are"
Rule = Callable[["Propagation", fx.Node], Value]
AttentionUnits = Literal["heads", "channels", "none", "unseen"]
"""What one walk makes of a split into attention heads: whole heads, channels within heads; or it
does not look for them."""


@dataclass(frozen=True, slots=True)
class FreezeEvent:
    """Why some indices were frozen, and where."""

    node: fx.Node
    reason: str
    is_unknown_op: bool


@dataclass(slots=True)
class Propagation:
    """The state of the walk; rules read labels with ``dims`` and merge them with ``tie``."""

    module: fx.GraphModule
    attention: AttentionUnits = "heads"
    tied_nodes: frozenset[str] = frozenset()
    """Nodes whose blocks could not be balanced: there the same index of every block goes."""
    allow_norm_coupled: bool = False
    """Let the channels under a layer norm go, which is not exact."""
    coupled_norms: list[Coupled] = field(default_factory=list)
    store: LabelStore = field(default_factory=LabelStore)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    tensor_dims: dict[str, Dims] = field(default_factory=dict)
    consumed: set[tuple[str, int]] = field(default_factory=set)
    contractions: list[Contracted] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    summed: list[Labels] = field(default_factory=list)
    heads: list[Labels] = field(default_factory=list)
    """Attention heads, where those are units."""
    head_channels: list[Labels] = field(default_factory=list)
    """Channels within attention heads."""
    events: list[FreezeEvent] = field(default_factory=list)
    num_frozen_by: list[int] = field(default_factory=list)
    node: fx.Node | None = None
    _name_of_tensor: dict[int, str] = field(default_factory=dict)
    _reads: Counter[int] = field(default_factory=Counter)

    # ---- what rules use ------------------------------------------------------------------------

    def dims(self, node: object) -> Dims:
        """A label vector for each dimension of a tensor value; grids are tied into vectors."""
        value = self.grids(node)
        if any(is_grid(labels) for labels in value):
            value = tuple(self.flat(labels, dim) for dim, labels in enumerate(value))
            assert isinstance(node, fx.Node)
            self.values[node] = value
        return value

    def grids(self, node: object) -> Dims:
        """The same for rules that can handle grids; see ``label_grids``."""
        assert isinstance(node, fx.Node)
        value = self.values.get(node)
        if not isinstance(value, tuple):
            raise UnlabelledError(f"{node} has no labels")
        return value

    def flat(self, labels: Labels, dim: int) -> Labels:
        """A vector for dimension ``dim``: the same index goes from every block of a grid."""
        if not is_grid(labels):
            return labels
        rows = rows_of(labels, dim)
        self.tie_rows(rows)
        return np.ascontiguousarray(rows[0])

    def tie_rows(
        self, rows: Labels, reason: str = "must match something that cannot shrink"
    ) -> None:
        """Let the same index of every row, [blocks, length], live or die together."""
        if len(rows) > 1:
            first = np.broadcast_to(rows[:1], rows[1:].shape).reshape(-1)
            self.tie(first, rows[1:].reshape(-1), reason)

    def balance(self, rows: Labels, *, is_required: bool) -> bool:
        """Ask for the same number from every row, [blocks, length].

        Returns:
            False if that was refused before: then tie the rows, or do without.
        """
        assert self.node is not None
        if self.node.name in self.tied_nodes or not self.store.is_live(rows.reshape(-1)).all():
            return False
        self.balances.append(Balance(self.node.name, rows, is_required))
        return True

    def is_tensor(self, argument: object) -> bool:
        """Whether an argument is a node with a tensor value."""
        return isinstance(argument, fx.Node) and isinstance(self.values.get(argument), tuple)

    def fixed(self, length: int) -> Labels:
        """Labels of a dimension that nothing can be taken from."""
        return np.zeros(length, dtype=np.int64)

    def tie(
        self, first: Labels, second: Labels, reason: str = "must match something that cannot shrink"
    ) -> None:
        """Let the labels of each pair live or die together; shapes broadcast."""
        if first is second or not (first.any() or second.any()):
            return
        if first.shape != second.shape or first.ndim > 1:
            first, second = (part.reshape(-1) for part in np.broadcast_arrays(first, second))
        needs_reason = bool(((first == FIXED) != (second == FIXED)).any())
        number = self._event(reason) if needs_reason else len(self.events)
        before = self.store.num_live_units(_nonzero(first, second)) if needs_reason else 0
        self.store.merge(first, second, number)
        if needs_reason:
            frozen = before - self.store.num_live_units(_nonzero(first, second))
            self.num_frozen_by[number] += max(frozen, 0)

    def freeze(self, labels: Labels, reason: str, *, is_unknown_op: bool = False) -> None:
        """Let these indices stay for good, and remember why."""
        if labels.any():
            number = self._event(reason, is_unknown_op)
            self.num_frozen_by[number] += self.store.freeze(labels.reshape(-1), number)

    def freeze_all(self, value: Value, reason: str, *, is_unknown_op: bool = False) -> None:
        """Freeze every dimension of a value, also inside lists."""
        if isinstance(value, tuple):
            for labels in value:
                self.freeze(labels, reason, is_unknown_op=is_unknown_op)
        elif isinstance(value, list):
            for item in value:
                self.freeze_all(item, reason, is_unknown_op=is_unknown_op)

    def contract(
        self, node: fx.Node, argument: object, dim: int, *, is_alone: bool = False
    ) -> None:
        """Record that ``node`` sums ``argument`` over ``dim``; on a parameter: a consumer.

        The proof sets activations to zero there, and a parameter only if it ``is_alone``: what it
        is multiplied with lies inside the operator, or it is summed by itself.
        """
        assert isinstance(argument, fx.Node)
        if argument.op == "get_attr":
            self.consumed.add((str(argument.target), dim))
        if argument.op != "get_attr" or is_alone:
            self.contractions.append(Contracted(node.name, argument.name, dim))

    def relabel(self, node: object, dim: int, labels: Labels) -> None:
        """Give one dimension of a parameter that is read only here labels of its own."""
        assert isinstance(node, fx.Node)
        assert node.op == "get_attr"
        dims = list(self.grids(node))
        dims[dim] = labels
        self.values[node] = self.tensor_dims[str(node.target)] = tuple(dims)

    def _event(self, reason: str, is_unknown_op: bool = False) -> int:
        assert self.node is not None
        if self.events and self.events[-1].node is self.node and self.events[-1].reason == reason:
            return len(self.events) - 1
        self.events.append(FreezeEvent(self.node, reason, is_unknown_op))
        self.num_frozen_by.append(0)
        return len(self.events) - 1

    # ---- the walk ------------------------------------------------------------------------------

    def run(self, rule_of: Callable[[fx.Node], Rule | None]) -> None:
        """Label the whole graph."""
        for node in self.module.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                self.values[node] = self.fixed_like(node)
            elif node.op == "get_attr":
                self.values[node] = self._tensor(str(node.target))
            elif node.op == "output":
                for argument in node.all_input_nodes:
                    self.freeze_all(self.values.get(argument), "reaches the network's output")
            else:
                self._call(node, rule_of(node))

    def _call(self, node: fx.Node, rule: Rule | None) -> None:
        if rule is not None and self._follow(node, rule):
            return
        reads = any(has_size_from_data(one.meta.get("val")) for one in node.all_input_nodes)
        is_from_data = reads or has_size_from_data(node.meta.get("val"))
        reason = SIZE_FROM_DATA if is_from_data else f"no rule for operator '{op_name(node)}'"
        if is_from_data and not reads:
            self._event(reason)  # told even where everything was held already
        for argument in node.all_input_nodes:
            self.freeze_all(self.values.get(argument), reason, is_unknown_op=not is_from_data)
        self.values[node] = self.fixed_like(node)

    def _follow(self, node: fx.Node, rule: Rule) -> bool:
        """Label by a rule; False if it cannot tell, because some shape is not known."""
        try:
            value = rule(self, node)
        except UnlabelledError:
            return False
        if value is None:
            result = node.meta.get("val")
            is_known = "val" in node.meta or not node.users
            return is_known and not has_size_from_data(result)
        self.values[node] = value
        _check_lengths(node, value)
        return True

    def fixed_like(self, node: fx.Node) -> Value:
        """Fixed labels in the shape of the node's result."""
        return self._fixed(node.meta.get("val"))

    def _fixed(self, result: object) -> Value:
        if isinstance(result, Tensor):
            if has_size_from_data(result):
                return None
            return tuple(self.fixed(length) for length in hint_shape(result))
        if isinstance(result, (tuple, list)):
            return [self._fixed(item) for item in result]
        return None

    def _tensor(self, name: str) -> Value:
        """Labels of a parameter or buffer: fresh ones for float tensors, the same at each use.

        What nothing reads has fixed ones: there is nothing to gain from it but a smaller number.
        """
        if name not in self.tensor_dims:
            tensor = fetch_tensor(self.module, name)
            if tensor is None:
                return None
            # a tensor that several modules share has the same labels under each of its names
            first = self._name_of_tensor.setdefault(id(tensor), name)
            is_read = self._num_reads()[id(tensor)] > 0
            self.tensor_dims[name] = self.tensor_dims.get(first) or tuple(
                self.store.fresh(length)
                if tensor.is_floating_point() and length > 1 and is_read
                else self.fixed(length)
                for length in tensor.shape
            )
        return self.tensor_dims[name]

    def is_read_once(self, node: object) -> bool:
        """Whether a value is a stored tensor that one call alone reads, under one name."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return False
        tensor = fetch_tensor(self.module, str(node.target))
        return self._num_reads()[id(tensor)] == 1

    def _num_reads(self) -> Counter[int]:
        if not self._reads:
            for node in self.module.graph.nodes:
                if node.op == "get_attr":
                    tensor = fetch_tensor(self.module, str(node.target))
                    self._reads[id(tensor)] += len(node.users)
        return self._reads


def _nonzero(*vectors: Labels) -> Labels:
    joined = np.concatenate(vectors)
    kept: Labels = joined[joined != FIXED]
    return kept


def _check_lengths(node: fx.Node, value: Value) -> None:
    result = node.meta.get("val")
    if isinstance(value, tuple) and isinstance(result, Tensor):
        lengths = tuple(length_of(labels, dim) for dim, labels in enumerate(value))
        assert lengths == hint_shape(result), f"rule of {node.target} made {lengths}"
    elif isinstance(value, list) and isinstance(result, Sequence):
        assert len(value) == len(result), f"rule of {node.target} made {len(value)} results"
