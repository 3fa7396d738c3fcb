"""One row for each group of the network: what it kept, and what the ToD rule promised about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import fsum
from typing import Any

from fairdeploy.graph.unit_graph import Group, UnitGraph
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
    """Rows of the removable groups in graph order, then of those that something holds in place.

    Residual blocks, which go as a whole, have rows of their own; see ``block_rows``.
    """
    by_name = {group.name: group for group in scores}
    gone = _tensors_gone(graph, allocation)
    rows = [
        _removable_row(
            by_name[group.name],
            allocation.removed.get(group.name, ()),
            allocation.prefix_lengths.get(group.name, 0),
            diagnostics.groups[group.name],
        )
        | ({"kept": 0} if _is_inside(group, gone) else {})
        for group in graph.groups
        if not group.is_branch
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


def block_rows(
    graph: UnitGraph, scores: Sequence[GroupScores], allocation: Allocation
) -> list[dict[str, Any]]:
    """One row for each residual block that may go as a whole; none unless that was asked for."""
    by_name = {group.name: group for group in scores}
    rows = []
    for branch in graph.branches:
        group = by_name[graph.groups[branch.group].name]
        tolerance = None if group.tolerances is None else float(group.tolerances[0])
        rows.append(
            {
                "module": branch.name,
                "is_gone": bool(allocation.removed.get(group.name)),
                "may_go": group.max_removed > 0,
                "u_score": float(group.u[0]),
                "r_score": float(group.r[0]),
                "tolerance": tolerance,
            }
        )
    return rows


def _tensors_gone(graph: UnitGraph, allocation: Allocation) -> set[str]:
    groups = (graph.groups[branch.group] for branch in graph.branches)
    gone = (group for group in groups if allocation.removed.get(group.name))
    return {tensor for group in gone for tensor in group.branch_tensors}


def _is_inside(group: Group, tensors: set[str]) -> bool:
    """Whether all of a group goes with these tensors."""
    return all(member.tensor in tensors for member in group.members)


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
