"""``sweep.json``: every point of a sweep as one versioned tree that scripts may read.

As in ``report.json``, shares are fractions, times are milliseconds per call unless the key says
seconds, and what is not a number is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairdeploy.files import write_whole
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    DataSplits,
    LoadedModel,
    PruningMethod,
    Sweep,
    SweepPoint,
    TargetProfile,
    TimedPlan,
)
from fairdeploy.reporting.accuracy_rows import difference_row, estimate_row
from fairdeploy.reporting.document import (
    costs_row,
    data_row,
    json_text,
    method_row,
    model_row,
)
from fairdeploy.reporting.json_tree import circumstance_rows, heading_rows, json_tree, row_of
from fairdeploy.reporting.page.sweep import render_sweep

SCHEMA_VERSION = 1
SWEEP_FILE = "sweep.json"
SWEEP_PAGE = "sweep.html"
WIDE_INTERVAL = 0.1
"""Of the ratio; a race with a wider interval is marked, for the machine was busy."""


def build_sweep_document(
    result: Sweep,
    *,
    model: LoadedModel,
    graph: UnitGraph,
    data: DataSplits,
    profile: TargetProfile,
    recovery: str,
    method: PruningMethod,
    plans_folder: str,
    shrink_commands: Mapping[str, str],
    closer_command: str | None,
    channel_multiple: Mapping[str, Any],
    seed: int,
    command: Sequence[str],
    stage_seconds: Mapping[str, float],
    environment: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Put a whole sweep into the tree of ``sweep.json``, version 1.

    Args:
        result: All points, the original first.
        profile: With the limits that the races really had.
        recovery: How the networks were repaired; ``none`` if they were not.
        method: Which signals and which rule decided.
        plans_folder: Name of the folder that holds a plan for each point but the original.
        shrink_commands: By point: what to type to make that network.
        closer_command: What to type to look closer at the knee; None where there is no more to see.
        channel_multiple: What counts are multiples of: ``number``, ``source``, ``is_cached``.
        command: The command line as typed, word by word.
        stage_seconds: Stage name to its duration, in the order in which they ran.
        warnings: Everything the user was warned of.

    Returns:
        Dictionaries, lists, strings, finite numbers, booleans and None.
    """
    original = result.points[0]
    rows = [
        _point_row(point, original, plans_folder, shrink_commands)
        | {"difference": None if difference is None else difference_row(difference)}
        | {"non_dominated": is_front, "is_knee": index == result.trade_off.knee}
        for index, (point, difference, is_front) in enumerate(
            zip(result.points, result.differences, result.trade_off.non_dominated, strict=True)
        )
    ]
    knee = next((row for row in rows if row["is_knee"]), None)
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        **heading_rows(command, seed),
        "model": model_row(model, graph),
        "metric": result.metric,
        "reachable": {
            "smallest": result.smallest,
            "original": original.costs[result.metric],
        },
        "task": asdict(graph.outputs.task.words),
        "quality": result.trade_off.quality,
        "points": rows,
        "knee": {
            "point": knee["name"] if knee else None,
            "reason": result.trade_off.reason,
            "command": knee["command"] if knee else None,
            "closer_command": closer_command,
        },
        "recovery": recovery,
        "method": method_row(method),
        "channel_multiple": dict(channel_multiple),
        "notes": list(result.notes),
        "not_judged": row_of(data.not_judged, "text"),
        "num_test_images": original.accuracy.num_images if original.accuracy else 0,
        "data": data_row(data),
        **circumstance_rows(profile, warnings, stage_seconds, environment),
    }
    return json_tree(document)


def write_sweep(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``sweep.json`` and ``sweep.html`` into ``folder``.

    Raises:
        OutputError: The disk refused.
    """
    write_whole(folder / SWEEP_FILE, json_text(document))
    write_whole(folder / SWEEP_PAGE, render_sweep(document))


def _point_row(
    point: SweepPoint, original: SweepPoint, plans_folder: str, shrink_commands: Mapping[str, str]
) -> dict[str, Any]:
    plan, proof = point.plan, point.proof
    before, now = costs_row(original.costs), costs_row(point.costs)
    return {
        "name": point.name,
        "budget": plan.budget.text if plan else None,
        "also_for": list(plan.also_for) if plan else [],
        "plan": f"{plans_folder}/{point.name}.json" if plan else None,
        "command": shrink_commands[point.name] if plan else None,
        "costs": now,
        "left": {key: now[key] / value if value else None for key, value in before.items()},
        "tolerance": plan.allocation.tolerance if plan else None,
        "num_removed_units": plan.num_removed if plan else 0,
        "r_mass_removed_share": point.r_mass_share,
        "proof": row_of(proof, "passed"),
        "accuracy": estimate_row(point.accuracy),
        "latency": _race_row(point.latency),
        "seconds": point.seconds,
    }


def _race_row(timed: TimedPlan | None) -> dict[str, Any] | None:
    """``left`` is the latency as a share of the original's, ``speedup`` the other way round."""
    if timed is None:
        return None
    return {
        "left": timed.ratio,
        "left_low": timed.ratio_low,
        "left_high": timed.ratio_high,
        "speedup": 1 / timed.ratio,
        "speedup_low": 1 / timed.ratio_high,
        "speedup_high": 1 / timed.ratio_low,
        "original_ms": timed.original_ms,
        "shrunk_ms": timed.shrunk_ms,
        "is_too_busy": timed.is_too_busy,
        "is_wide": timed.ratio_high - timed.ratio_low > WIDE_INTERVAL * timed.ratio,
    }
