"""One row for each group of the network: what it kept, and what the ToD rule promised about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import fsum
from typing import Any

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    Allocation,
    AllocationDiagnostics,
    GroupDiagnostics,
    GroupScores,
)


def group_rows(
    graph: UnitGraph,
    scores: Sequence[GroupScores],
    diagnostics: AllocationDiagnostics,
    allocation: Allocation,
) -> list[dict[str, Any]]:
    """Rows of the removable groups in graph order, then of those that something holds in place."""
    by_name = {group.name: group for group in scores}
    rows = [
        _removable_row(
            by_name[group.name],
            allocation.removed.get(group.name, ()),
            allocation.prefix_lengths.get(group.name, 0),
            diagnostics.groups[group.name],
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
            "frozen_at": group.module_path,
            "params": group.num_params,
            "tensors": list(group.tensors),
        }
        for group in graph.frozen_groups
    ]


def exchange_row(
    diagnostics: AllocationDiagnostics, scores: Sequence[GroupScores]
) -> dict[str, float]:
    """R-mass of all groups: of what went, its bound, uniform pruning's, and what there was."""
    items = diagnostics.groups.values()
    return {
        "uniform_fraction": diagnostics.uniform_fraction,
        "r_mass_uniform_minus_tod": diagnostics.exchange,
        "r_mass_removed": fsum(item.r_mass_removed for item in items),
        "r_mass_bound": fsum(item.r_mass_bound_removed for item in items),
        "r_mass_uniform": fsum(item.r_mass_uniform for item in items),
        "r_mass_total": fsum(float(group.r.sum()) for group in scores),
    }


def freeze_rows(graph: UnitGraph) -> list[dict[str, Any]]:
    """Operations that kept something from being removable, the most costly first."""
    freezes = sorted(
        graph.freezes, key=lambda freeze: (not freeze.is_unknown_op, -freeze.num_units)
    )
    return [asdict(freeze) for freeze in freezes]


def _removable_row(
    group: GroupScores,
    removed: tuple[int, ...],
    prefix_length: int,
    diagnostics: GroupDiagnostics,
) -> dict[str, Any]:
    return {
        "name": group.name,
        "units": len(group.u),
        "kept": len(group.u) - len(removed),
        "tod": diagnostics.tod,
        "frozen_reason": None,
        "prefix_length": prefix_length,
        "max_removed": group.max_removed,
        "reluctance": group.reluctance,
        "r_mass_removed": diagnostics.r_mass_removed,
        "r_mass_prefix": diagnostics.r_mass_prefix,
        "r_mass_bound": diagnostics.r_mass_bound,
        "r_mass_uniform": diagnostics.r_mass_uniform,
        "r_mass_total": float(group.r.sum()),
        "share_protected": diagnostics.share_protected,
        "r_mass_bound_removed": diagnostics.r_mass_bound_removed,
        "num_removed_uniform": diagnostics.num_removed_uniform,
    }
