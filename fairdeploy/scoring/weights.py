"""Signals that the weights alone give; they need no images.

A unit's *filter* in a layer is everything that makes its output there: one row of the kernel or
matrix, or all its rows where it has several (an attention head, the gates of a recurrent unit).
Biases and norms are no part of it, as in the papers. Each layer's filters are compared with each
other; see ``readings`` for units that several layers make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fairdeploy.errors import UsageError
from fairdeploy.graph.unit_graph import Member, UnitGraph
from fairdeploy.graph.weight_readers import (
    Reader,
    is_batch_norm_scale,
    is_layer_weight,
    weight_readers,
)
from fairdeploy.scoring.readings import Measured, Reading, Scores, mean_over_layers

WeightSignal = Literal["l1", "l2", "fpgm", "bn-scale"]


def weight_signal(graph: UnitGraph, name: WeightSignal) -> Measured:
    """One of the signals, of every unit.

    Raises:
        UsageError: ``bn-scale`` of a network where no unit passes a batch norm.
    """
    readings = _scale_readings(graph) if name == "bn-scale" else _filter_readings(graph, name)
    measured = mean_over_layers(graph.num_units, readings)
    if name == "bn-scale" and graph.num_units and not measured.is_measured.any():
        raise UsageError(
            "'bn-scale' reads the scales of batch norms, and no unit of this network passes one; "
            "use l2, or another signal"
        )
    return measured


def l1_norms(filters: Tensor) -> Tensor:
    """Sum of absolute weights of each filter (Li et al. 2017, arXiv 1608.08710).

    Args:
        filters: Float64 [U, D], like the other functions'.
    """
    return filters.abs().sum(1)


def l2_norms(filters: Tensor) -> Tensor:
    """Euclidean norm of each filter (He et al. 2018, arXiv 1808.06866)."""
    return filters.square().sum(1).sqrt()


def distances_to_others(filters: Tensor) -> Tensor:
    """Sum of Euclidean distances to all filters of the layer: FPGM (He et al. 2019, 1811.00250).

    Small near the geometric median, where a filter is the easiest for others to stand in for.
    """
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


_NONE: frozenset[Reader] = frozenset()
_FILTER_SIGNALS: dict[WeightSignal, Callable[[Tensor], Tensor]] = {
    "l1": l1_norms,
    "l2": l2_norms,
    "fpgm": distances_to_others,
}


def _filter_readings(graph: UnitGraph, name: WeightSignal) -> Iterator[Reading]:
    readers = weight_readers(graph.module)
    for group in graph.groups:
        for member in group.members:
            if member.role == "consumes" or not is_layer_weight(readers.get(member.tensor, _NONE)):
                continue
            weight = _tensor(graph, member.tensor)
            if weight.dim() > 1:  # not a bias
                signal = _FILTER_SIGNALS[name](_filters(weight, member))
                yield group.units[member.units], _plain(signal)


def _scale_readings(graph: UnitGraph) -> Iterator[Reading]:
    """``|gamma|`` of the batch norms (Network Slimming, Liu et al. 2017, arXiv 1708.06519).

    A unit of several channels has the mean of theirs. The paper compares the scales of all layers
    as they are, after a training that drives them to 0; without it they are comparable within a
    layer only, so they are divided by the layer's mean like all others.
    """
    readers = weight_readers(graph.module)
    for group in graph.groups:
        for member in group.members:
            if is_batch_norm_scale(readers.get(member.tensor, _NONE)):
                scales = _tensor(graph, member.tensor).abs()[torch.from_numpy(member.positions)]
                yield group.units[member.units], _plain(scales.mean(1))


def _filters(weight: Tensor, member: Member) -> Tensor:
    """All rows of each unit side by side, [U, D]."""
    rows = weight.movedim(member.dim, 0).flatten(1)
    return rows[torch.from_numpy(member.positions)].flatten(1)


def _tensor(graph: UnitGraph, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(graph.module.get_submodule(owner), leaf)
    assert isinstance(tensor, Tensor)
    return tensor.detach().double().cpu()


def _plain(values: Tensor) -> Scores:
    return values.numpy().astype(np.float64)
