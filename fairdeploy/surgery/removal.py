"""Physically remove units: slice every tensor and rewrite the graph's constants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.graph.capture import quiet_export
from fairdeploy.graph.propagation import fetch_tensor
from fairdeploy.graph.unit_graph import KEPT, UnitGraph, UnitIds
from fairdeploy.surgery.graph_rewrite import rewrite_constants


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
    stays = StayingIndices(removed)
    sliced: dict[str, Tensor] = {}
    for name, dims in graph.tensor_units.items():
        tensor = fetch_tensor(graph.module, name)
        assert tensor is not None
        sliced[name] = slice_tensor(tensor, tuple(stays.positions(units) for units in dims))
    module = _with_tensors(graph.module, sliced)
    rewrite_constants(graph, module, stays.count)
    module.graph.lint()
    module.recompile()
    return ShrunkNetwork(module.eval())


class StayingIndices:
    """Which indices of a dimension stay when some units go."""

    def __init__(self, removed: NDArray[np.bool_]) -> None:
        # KEPT is -1, which picks the last entry: an index without a unit always stays
        self._stays = np.append(~removed, True)

    def mask(self, units: UnitIds) -> NDArray[np.bool_]:
        """Boolean per index."""
        assert KEPT == -1
        result: NDArray[np.bool_] = self._stays[units]
        return result

    def positions(self, units: UnitIds) -> NDArray[np.int64]:
        """Indices that stay, ascending."""
        return np.flatnonzero(self.mask(units))

    def count(self, units: UnitIds) -> int:
        """How many indices stay."""
        return int(self.mask(units).sum())


def slice_tensor(tensor: Tensor, positions: tuple[NDArray[np.int64], ...]) -> Tensor:
    """A contiguous copy of ``tensor`` with only these indices in each dimension."""
    result = tensor.detach()
    for dim, kept in enumerate(positions):
        if len(kept) < result.shape[dim]:
            result = result.index_select(dim, torch.from_numpy(kept).to(result.device))
    return result.clone(memory_format=torch.contiguous_format)


def _with_tensors(module: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
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
