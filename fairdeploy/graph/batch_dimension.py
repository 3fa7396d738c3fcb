"""Where the images of a batch lie in each value of a network.

Not always in dimension 0: sequence-first modules have them in dimension 1, attention folds heads
into them, and some code folds time or windows. So each index of each input's batch is labelled with
its image, and the labels are followed through the graph by the same rules as those of units. What
a rule loses is found again by its symbolic size, where the batch is dynamic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.walk.label_grids import is_grid, rows_of
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import Dims, Propagation, Rule, Value
from fairdeploy.graph.walk.rules import rule_of


@dataclass(frozen=True, slots=True)
class BatchDimension:
    """The dimension of a value that counts images, and what else is folded into it.

    Index ``(i * images + image) * inner + j`` belongs to ``image``.
    """

    dim: int
    outer: int = 1
    """Indices folded in before the images, as time is in ``[T, N, C] -> [T * N, C]``."""
    inner: int = 1
    """Indices folded in after them, as windows or heads are."""

    def folds(self, length: int, images: int) -> tuple[int, int]:
        """``outer`` and ``inner`` where the dimension is so long, at any sizes of the images."""
        if self.outer == 1:
            return 1, length // images
        return (length // images, 1) if self.inner == 1 else (self.outer, self.inner)

    def images_first(self, value: Tensor, images: int) -> Tensor:
        """The value as [images, indices folded in, *other dimensions], a view where it can be."""
        moved = value.movedim(self.dim, 0)
        outer, inner = self.folds(len(moved), images)
        parts = moved.reshape(outer, images, inner, *moved.shape[1:])
        return parts.movedim(1, 0).flatten(1, 2)


_KNOWN: WeakKeyDictionary[fx.GraphModule, Mapping[str, BatchDimension]] = WeakKeyDictionary()


def batch_dimensions(graph: UnitGraph) -> Mapping[str, BatchDimension]:
    """By node name; values that hold no images, or mix them, are left out."""
    if graph.module not in _KNOWN:
        _KNOWN[graph.module] = dict(_found(graph))
    return _KNOWN[graph.module]


def _found(graph: UnitGraph) -> list[tuple[str, BatchDimension]]:
    batch = graph.inputs.batch
    walk = _ImageWalk(graph.module, attention="unseen", symbols=_batch_symbols(graph.module))
    walk.images = walk.store.fresh(batch)
    walk.run(rule_of)
    values = [(node.name, dims) for node, dims in walk.values.items() if isinstance(dims, tuple)]
    if batch == 1:  # whatever there is belongs to the only image
        return [(name, BatchDimension(0)) for name, dims in values if dims]
    found = [(name, _dimension(dims, walk.images)) for name, dims in values]
    return [(name, dimension) for name, dimension in found if dimension is not None]


def _dimension(dims: Dims, images: Labels) -> BatchDimension | None:
    """The one dimension whose labels are those of the images, each as often."""
    labelled = [dim for dim, labels in enumerate(dims) if labels.any()]
    if len(labelled) != 1 or is_grid(dims[labelled[0]]):
        return None
    labels = dims[labelled[0]]
    others = np.flatnonzero(labels != labels[0])
    inner = int(others[0]) if len(others) else len(labels)
    outer = len(labels) // (len(images) * inner)
    if not np.array_equal(np.tile(np.repeat(images, inner), outer), labels):
        return None
    return BatchDimension(labelled[0], outer, inner)


def _batch_symbols(module: fx.GraphModule) -> frozenset[object]:
    """The symbols that stand for the batch of any input."""
    values = (node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder")
    sizes: list[object] = [
        value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()
    ]
    return frozenset(size.node.expr for size in sizes if isinstance(size, torch.SymInt))


@dataclass(slots=True)
class _ImageWalk(Propagation):
    """Labels are passed on and never merged: an index belongs to one image or to none."""

    symbols: frozenset[object] = frozenset()
    images: Labels = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def flat(self, labels: Labels, dim: int) -> Labels:
        """One block for all, if all are the same."""
        rows = rows_of(labels, dim)
        is_same = bool((rows == rows[:1]).all())
        return np.ascontiguousarray(rows[0]) if is_same else self.fixed(rows.shape[1])

    def tie(self, first: Labels, second: Labels, reason: str = "") -> None:
        """Nothing: what one image must match does not become its own."""

    def freeze(self, labels: Labels, reason: str, *, is_unknown_op: bool = False) -> None:
        """Nothing."""

    def balance(self, rows: Labels, *, is_required: bool) -> bool:
        """Nothing goes, so that the same number stays everywhere."""
        return True

    def relabel(self, node: object, dim: int, labels: Labels) -> None:
        """Nothing: no parameter holds images."""

    def fixed_like(self, node: fx.Node) -> Value:
        """Labels of images where the size says so, and in front of every input."""
        value = self._fixed(node.meta.get("val"))
        if node.op == "placeholder" and isinstance(value, tuple) and value:
            return (self.images, *value[1:])
        return self._with_images(value, node.meta.get("val"))

    def _with_images(self, value: Value, result: object) -> Value:
        """Put labels where a dimension is as long as the batch and has none."""
        if isinstance(value, list) and isinstance(result, (list, tuple)):
            return [self._with_images(*pair) for pair in zip(value, result, strict=False)]
        if not isinstance(value, tuple) or not isinstance(result, Tensor):
            return value
        return tuple(
            self.images if not labels.any() and self._is_batch(size) else labels
            for labels, size in zip(value, result.shape, strict=True)
        )

    def _is_batch(self, size: object) -> bool:
        return isinstance(size, torch.SymInt) and size.node.expr in self.symbols

    def _call(self, node: fx.Node, rule: Rule | None) -> None:
        Propagation._call(self, node, rule)
        self.values[node] = self._with_images(self.values.get(node), node.meta.get("val"))

    def _tensor(self, name: str) -> Value:
        tensor = fetch_tensor(self.module, name)
        return None if tensor is None else tuple(self.fixed(length) for length in tensor.shape)
