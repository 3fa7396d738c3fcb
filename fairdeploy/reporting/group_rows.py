"""One row for each group of the network: what it kept, and what the ToD rule promised about it.

``ToD(k)`` of a prefix bounds the R-Score mass that goes with it: of the k removed units,
``k * ToD(k)`` are in the protected tail, so they weigh at most as much as that many of the highest
R-Scores; each of the others weighs at most the k-th highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Allocation, GroupScores


def group_rows(
    graph: UnitGraph,
    scores: Sequence[GroupScores],
    tod_curves: Mapping[str, NDArray[np.float64]],
    allocation: Allocation,
) -> list[dict[str, Any]]:
    """Rows of the removable groups in graph order, then of those that something holds in place."""
    by_name = {group.name: group for group in scores}
    rows = [
        _removable_row(
            by_name[group.name],
            tod_curves[group.name],
            allocation.removed.get(group.name, ()),
            allocation.prefix_lengths.get(group.name, 0),
        )
        for group in graph.groups
    ]
    return rows + [
        {
            "name": group.name,
            "units": group.size,
            "kept": group.size,
            "tod": None,
            "frozen_reason": group.reason,
            "params": group.num_params,
            "tensors": list(group.tensors),
        }
        for group in graph.frozen_groups
    ]


def freeze_rows(graph: UnitGraph) -> list[dict[str, Any]]:
    """Operations that kept something from being removable, the most costly first."""
    freezes = sorted(
        graph.freezes, key=lambda freeze: (not freeze.is_unknown_op, -freeze.num_units)
    )
    return [asdict(freeze) for freeze in freezes]


def r_mass_bound(r: NDArray[np.float64], prefix_length: int, tod: float) -> float:
    """The most R-Score mass that a prefix of ``prefix_length`` units with this ToD can hold."""
    if prefix_length == 0:
        return 0.0
    highest = np.sort(r)[::-1]
    num_protected = round(prefix_length * tod)
    rest = (prefix_length - num_protected) * highest[prefix_length - 1]
    return float(highest[:num_protected].sum() + rest)


def _removable_row(
    group: GroupScores,
    curve: NDArray[np.float64],
    removed: tuple[int, ...],
    prefix_length: int,
) -> dict[str, Any]:
    tod = float(curve[prefix_length - 1]) if prefix_length else 0.0
    total = float(group.r.sum())
    return {
        "name": group.name,
        "units": len(group.u),
        "kept": len(group.u) - len(removed),
        "tod": tod,
        "frozen_reason": None,
        "prefix_length": prefix_length,
        "max_removed": group.max_removed,
        "r_mass_removed": float(group.r[list(removed)].sum()),
        "r_mass_bound": r_mass_bound(group.r, prefix_length, tod),
        "r_mass_total": total,
    }
