"""Results side by side: what each run kept, and where their figures may not be compared.

Reads documents of ``report.json`` that ``runs`` has checked; shares are fractions, times are
milliseconds a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.records.accuracy import STEPS
from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting.json_tree import json_tree
from fairdeploy.reporting.quantities import (
    MISSING,
    amount,
    as_fast,
    decided_by,
    percent,
    points,
    quality_name,
    share_of,
)

COMPARISON_SCHEMA = 1
Document = Mapping[str, Any]
_NOTES = {
    "network": "the originals differ: shares are of different networks",
    "images": "the images differ: qualities are of different tests",
    "measure": "qualities are of different kinds",
    "target": "the targets differ: so may what runs fast",
}
_NEEDS_ALIKE = {
    "params": frozenset({"network"}),
    "quality": frozenset({"images", "measure"}),
    "speedup": frozenset({"network", "target"}),
}
"""What must be the same in all runs for one of them to be called the best in something."""


def build_comparison(reports: Mapping[str, Document]) -> dict[str, Any]:
    """The document of ``compare``: one row a result, and notes.

    Args:
        reports: By folder, as it was typed.
    """
    rows = [_run_row(folder, document) for folder, document in reports.items()]
    unlike = _unlike(list(reports.values()))
    return json_tree(
        {
            "schema_version": COMPARISON_SCHEMA,
            "runs": rows,
            "best": {
                name: None if unlike & _NEEDS_ALIKE[name] else _best(rows, name)
                for name in _NEEDS_ALIKE
            },
            "notes": [text for what, text in _NOTES.items() if what in unlike],
        }
    )


def comparison_table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Titles (one a result) and rows of what a person compares; rows that say nothing are out."""
    runs = document["runs"]
    rows = [
        ["network", *(run["network"] for run in runs)],
        ["budget", *(", ".join(run["budget"]) or MISSING for run in runs)],
        ["decided", *(decided_by(run["method"]) for run in runs)],
        ["repaired", *(" and ".join(run["repairs"]) or "no" for run in runs)],
        *([METRICS[name].words, *(_cost(run, name) for run in runs)] for name in COUNTED),
        ["quality", *(_figure(run["quality"], run["quality_name"]) for run in runs)],
        ["change", *(_change(run["change"]) for run in runs)],
        ["error", *(_figure(run["error"], "against the original") for run in runs)],
        ["speed", *(_speed(run["latency"]) for run in runs)],
    ]
    said = [row for row in rows if any(cell != MISSING for cell in row[1:])]
    return [run["folder"] for run in runs], said


def verdict_lines(document: Document) -> list[str]:
    """Which result is best in what, where intervals tell; else that they do not."""
    words = {"params": "smallest", "quality": "best quality", "speedup": "fastest"}
    lines = []
    for name, found in document["best"].items():
        if found is None:
            continue
        others = ", ".join(found["alike"])
        doubt = f" (can't be told apart from {others})" if others else ""
        lines.append(f"{words[name]}: {found['folder']}{doubt}")
    return [*lines, *document["notes"]]


def _run_row(folder: str, document: Document) -> dict[str, Any]:
    accuracy, changes = document["accuracy"], (document["changes"] or {}).get("by_step", {})
    judged = [step for step in STEPS if step != "original" and accuracy.get(step)]
    repair = document["recovery"]["method"] if document["recovery"] else "none"
    tuning = {"distillation": document["distillation"], "training": document["tuning"]}
    costs = document["model"]
    return {
        "folder": folder,
        "network": costs["name"],
        "budget": [row["asked"] for row in document["budget"]],
        "method": document["method"],
        "repairs": [
            *([repair.replace("_", " ")] if repair != "none" else []),
            *(name for name, row in tuning.items() if row),
        ],
        "costs": {METRICS[name].key: costs["shrunk"][METRICS[name].key] for name in COUNTED},
        "left": {
            METRICS[name].key: share_of(
                costs["shrunk"][METRICS[name].key], costs["original"][METRICS[name].key]
            )
            for name in COUNTED
        },
        "quality_name": quality_name(document),
        "quality": accuracy[judged[-1]] if judged else None,
        "change": changes.get(judged[-1]) if judged else None,
        "error": _last_error(document),
        "latency": document["latency"],
    }


def _last_error(document: Document) -> Document | None:
    """How far the main output is from the original's after the last step."""
    found = document["fidelity"]
    if not found or not found["by_step"]:
        return None
    outputs = list(found["by_step"].values())[-1]["outputs"]
    main = [row["error"] for row in outputs if row["output"] == found["main_output"]]
    return main[0] if main else None


def _best(rows: Sequence[Document], name: str) -> dict[str, Any] | None:
    """The row with the best figure, and those whose intervals reach it; None of fewer than two."""
    figures: dict[str, tuple[float, float, float]] = {}
    for row in rows:
        quality, latency = row["quality"], row["latency"]
        if name == "params":
            value = -row["left"]["params"]
            figures[row["folder"]] = (value, value, value)
        elif name == "quality" and quality:
            figures[row["folder"]] = (quality["value"], quality["low"], quality["high"])
        elif name == "speedup" and latency and not latency["is_too_busy"]:
            keys = ("speedup", "speedup_low", "speedup_high")
            figures[row["folder"]] = (latency[keys[0]], latency[keys[1]], latency[keys[2]])
    if len(figures) < 2:
        return None
    best = max(figures, key=lambda folder: figures[folder][0])
    alike = [
        folder
        for folder, (_, _, high) in figures.items()
        if folder != best and high >= figures[best][1]
    ]
    return {"folder": best, "alike": alike}


def _unlike(documents: Sequence[Document]) -> frozenset[str]:
    """In what the runs differ besides the pruning: keys of ``_NOTES``."""
    told: dict[str, list[Any]] = {
        "network": [document["model"]["sha256"] for document in documents],
        "images": [
            ((document["data"] or {}).get("sha256"), document["accuracy"]["num_images"])
            for document in documents
        ],
        "measure": [(document["task"] or {}).get("quality") for document in documents],
        "target": [document["target"]["name"] for document in documents if document["latency"]],
    }
    return frozenset(
        what for what, values in told.items() if any(value != values[0] for value in values)
    )


def _cost(run: Document, name: str) -> str:
    key = METRICS[name].key
    return f"{amount(name, run['costs'][key])} ({percent(run['left'][key])})"


def _figure(row: Document | None, name: str) -> str:
    if not row:
        return MISSING
    return f"{percent(row['value'])} {name} ({percent(row['low'])} to {percent(row['high'])})"


def _change(row: Document | None) -> str:
    if not row:
        return MISSING
    return f"{points(row['value'])} ({points(row['low'])} to {points(row['high'])})"


def _speed(row: Document | None) -> str:
    if not row:
        return MISSING
    interval = f" ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
    return as_fast(row) + ("" if row["is_too_busy"] else interval)
