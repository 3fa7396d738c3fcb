"""One row for each module of the user's network: how much of it can go, and what holds the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fairdeploy.graph.stored_tensors import fetch_tensor
from fairdeploy.graph.unit_graph import KEPT, UnitGraph, UnitIds
from fairdeploy.graph.walk.label_grids import length_of, rows_of
from fairdeploy.records import LoadedModel
from fairdeploy.runs.inspect.standing_rows import Standing
from fairdeploy.surgery.removal import StayingIndices


def module_rows(
    model: LoadedModel, graph: UnitGraph, least: NDArray[np.int64], stays: Sequence[Standing]
) -> list[dict[str, Any]]:
    """Every module with parameters, and every one around it, in the order of the user's module.

    Args:
        model: Gives the order.
        graph: Its units.
        least: Fewest units that each group may keep, shape [G].
        stays: Reasons, which the rows name by their index.

    Returns:
        Rows with ``module`` (empty for the whole network), ``params``, ``removable_params`` (in the
        smallest allowed plan), ``frozen_params`` (what no unit is part of) and ``stays`` (indices
        of reasons that keep outputs of layers in it).
    """
    removed = np.zeros(graph.num_units, dtype=np.bool_)
    for group, kept in zip(graph.groups, least.tolist(), strict=True):
        removed[group.blocks[:, kept:]] = True
    gone = {name for branch in graph.branches_gone(removed) for name in branch.tensors}
    staying = StayingIndices(graph, removed)
    rows: dict[str, dict[str, Any]] = {}
    for name in _parameters_in_order(model.module, graph):
        dims = graph.tensor_units[name]
        params = math.prod(length_of(units, dim) for dim, units in enumerate(dims))
        kept = math.prod(staying.count(units, dim) for dim, units in enumerate(dims))
        kept = 0 if name in gone else kept
        frozen = math.prod(_num_frozen(units, dim) for dim, units in enumerate(dims))
        reasons = {index for index, reason in enumerate(stays) if name in reason.tensors}
        for path in _modules_around(name):
            row = rows.setdefault(
                path,
                {"module": path, "params": 0, "removable_params": 0, "frozen_params": 0,
                 "stays": set()},
            )  # fmt: skip
            row["params"] += params
            row["removable_params"] += params - kept
            row["frozen_params"] += frozen
            row["stays"] |= reasons
    return [row | {"stays": sorted(row["stays"])} for row in rows.values()]


def _num_frozen(units: UnitIds, dim: int) -> int:
    """Indices of a dimension that no unit owns."""
    return int((rows_of(units, dim)[0] == KEPT).sum())


def _parameters_in_order(module: nn.Module, graph: UnitGraph) -> list[str]:
    """Parameters that the graph uses, each tensor once, modules kept together."""
    order = {
        name: place
        for place, (name, _) in enumerate(module.named_parameters(remove_duplicate=False))
    }
    seen: set[int] = set()
    result = []
    parameters = dict(graph.module.named_parameters(remove_duplicate=False))
    for name in sorted(graph.tensor_units, key=lambda name: order.get(name, len(order))):
        tensor = fetch_tensor(graph.module, name)
        if name in parameters and id(tensor) not in seen:
            seen.add(id(tensor))
            result.append(name)
    return result


def _modules_around(tensor: str) -> list[str]:
    """Paths from the whole network, which is empty, down to the module that owns the tensor."""
    parts = tensor.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]
