"""A shrunk network in the tensors of the original: what went is zero, the rest is as it is now.

So a network that was repaired or trained after a first removal can be scored and shrunk further
with the unit graph of the original.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.errors import UsageError
from fairdeploy.graph.stored_tensors import fetch_tensor
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.surgery.removal import StayingIndices, with_tensors


def full_size(graph: UnitGraph, shrunk: fx.GraphModule, removed: NDArray[np.bool_]) -> UnitGraph:
    """The unit graph with a network that computes what ``shrunk`` computes.

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
