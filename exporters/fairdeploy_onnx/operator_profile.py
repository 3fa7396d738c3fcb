"""Lets ONNX Runtime profile itself, and sums what it says by operator.

This file needs Python 3.8, so that a copy of it runs on any device. It imports nothing of
fairdeploy.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Profiled = tuple[Callable[[], Any], Callable[[], Path | str]]
    """Runs the network once; ends the profiling and tells where its file is."""

PROFILED_GRAPH_FILE = "optimized.onnx"
MAX_PROFILE_WARMUP_RUNS = 5
"""The first runs allocate and page in."""

_EVENT_ENDING = "_kernel_time"
_US_PER_MS = 1e3


def profiled_operators(
    open_with: Callable[[Callable[[Any], None]], Profiled],
    cannot_open: type[Exception],
    folder: Path,
    num_runs: int,
) -> tuple[list[dict[str, Any]], bytes | None]:
    """Run a network under the profiler.

    Args:
        open_with: Opens it; what it is handed changes the session's options before.
        cannot_open: What that raises.
        folder: An empty one, for ONNX Runtime's files.
        num_runs: How many runs count.

    Returns:
        For each operator, in the order in which they run: ``name``, ``op_type``, ``shape`` of its
        first output and ``median_ms`` of a run. And the graph that was run, as ONNX without its
        weights; None if ONNX Runtime cannot write that down.
    """
    try:
        run, end = open_with(partial(_ask_for_profile, folder, with_graph=True))
    except cannot_open:  # parts compiled for a device have no ONNX form
        run, end = open_with(partial(_ask_for_profile, folder, with_graph=False))
    for _ in range(min(MAX_PROFILE_WARMUP_RUNS, num_runs) + num_runs):
        run()
    events = json.loads(Path(end()).read_text(encoding="utf-8"))
    graph = folder / PROFILED_GRAPH_FILE
    return operator_rows(events, num_runs), graph.read_bytes() if graph.is_file() else None


def operator_rows(events: Sequence[Mapping[str, Any]], num_runs: int) -> list[dict[str, Any]]:
    """The median of each operator over the last ``num_runs`` runs; one in a loop runs often."""
    starts = [event["ts"] for event in events if event["name"] == "model_run"][-num_runs:]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] != "Node" or not event["name"].endswith(_EVENT_ENDING):
            continue
        number = bisect_right(starts, event["ts"]) - 1
        if number >= 0:
            name, op_type = event["name"][: -len(_EVENT_ENDING)], event["args"]["op_name"]
            empty = {"name": name, "op_type": op_type, "shape": _shape(event), "us": [0] * num_runs}
            rows.setdefault((name, op_type), empty)["us"][number] += event["dur"]
    return [
        {
            "name": row["name"],
            "op_type": row["op_type"],
            "shape": row["shape"],
            "median_ms": median(row["us"]) / _US_PER_MS,
        }
        for row in rows.values()
    ]


def _shape(event: Mapping[str, Any]) -> list[int]:
    told = event["args"].get("output_type_shape", ())
    shapes = [shape for item in told for shape in item.values()]
    return list(shapes[0]) if shapes else []


def _ask_for_profile(folder: Path, options: Any, *, with_graph: bool) -> None:
    """Change session options so that a profile is written (changes ``options``)."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if not with_graph:
        return
    options.optimized_model_filepath = str(folder / PROFILED_GRAPH_FILE)
    for key, value in (("file_name", "weights"), ("min_size_in_bytes", "64")):
        options.add_session_config_entry(
            f"session.optimized_model_external_initializers_{key}", value
        )
