"""What the proof compares with where norms may lose channels that they take statistics over.

There the surgery is not exact: with some channels at zero a norm has other statistics than without
them. For the proof, the reference takes its statistics over the kept channels alone, so that all
the rest is still proved. What that changes is measured against the original with plain zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.removal import StayingIndices

aten = torch.ops.aten
KeptMasks = Mapping[int, NDArray[np.bool_]]
"""By dimension: which indices stay."""


def norms_that_lose_channels(graph: UnitGraph, stays: StayingIndices) -> dict[str, KeptMasks]:
    """By node name: the dimensions that the norm takes statistics over and that lose indices."""
    found: dict[str, KeptMasks] = {}
    for norm in graph.coupled_norms:
        units = graph.value_units[norm.node]
        masks = {dim: stays.mask(units[dim]) for dim in norm.dims}
        masks = {dim: mask for dim, mask in masks.items() if not mask.all()}
        if masks:
            found[norm.node] = masks
    return found


def take_statistics_over_kept(module: fx.GraphModule, node: fx.Node, masks: KeptMasks) -> None:
    """Let norm ``node`` see the kept indices only; it gives zeros at the others (changes both)."""
    writer = _Writer(module, node)
    rank = node.meta["val"].dim()
    data, vectors = node.args[0], list(node.args[2:4])
    affine_dims = rank if op_name(node) == "group_norm" else 0
    shape = list(node.args[1]) if isinstance(node.args[1], (list, tuple)) else []
    for dim, mask in masks.items():
        data = writer.select(data, dim, np.flatnonzero(mask))
        of_vector = 0 if affine_dims else dim - (rank - len(shape))
        vectors = [
            vector if vector is None else writer.select(vector, of_vector, np.flatnonzero(mask))
            for vector in vectors
        ]
        if shape:
            shape[of_vector] = int(mask.sum())
    rest = (shape or node.args[1], *vectors, *node.args[4:])
    result: object = writer.call(node.target, (data, *rest))
    whole = np.ones([1] * rank, dtype=np.float32)
    for dim, mask in masks.items():
        result = writer.select(result, dim, np.where(mask, np.cumsum(mask) - 1, 0))
        whole = whole * mask.reshape([-1 if axis == dim else 1 for axis in range(rank)])
    zeros = writer.constant(torch.from_numpy(whole).to(node.meta["val"].dtype))
    node.target, node.args, node.kwargs = aten.mul.Tensor, (result, zeros), {}  # type: ignore[assignment]


class _Writer:
    """Puts calls and constants before a node."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self._module, self._node, self._count = module, node, 0

    def call(self, target: object, args: tuple[object, ...]) -> fx.Node:
        with self._module.graph.inserting_before(self._node):
            return self._module.graph.call_function(target, args)  # type: ignore[arg-type]

    def constant(self, tensor: torch.Tensor) -> fx.Node:
        self._count += 1
        name = f"_kept_by_{self._node.name}_{self._count}"
        self._module.register_buffer(name, tensor)
        with self._module.graph.inserting_before(self._node):
            return self._module.graph.get_attr(name)

    def select(self, value: object, dim: int, positions: NDArray[np.int64]) -> fx.Node:
        index = self.constant(torch.from_numpy(positions.astype(np.int64)))
        return self.call(aten.index_select.default, (value, dim, index))
