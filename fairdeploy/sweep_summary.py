"""The end of a sweep on the terminal: every network in a table, the knee, and what to type next.

Reads the document of ``sweep.json``, so that the terminal never says more than the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.summary import short, two_columns

Document = Mapping[str, Any]


def sweep_summary(document: Document, folder: Path) -> RenderableType:
    """Everything that a user wants to know first."""
    lines = two_columns([*_knee_lines(document), *_fact_lines(document, folder)])
    parts: list[RenderableType] = [Text(), _points_table(document), Text(), lines]
    command = document["knee"]["command"]
    if command:
        # On a line of its own and unbroken, to be copied.
        parts += [
            Text(),
            Text("make the knee's network with", style="bold"),
            Text(f"  {command}", overflow="ignore", no_wrap=True),
        ]
    return Group(*parts)


def _points_table(document: Document) -> Table:
    has_accuracy = document["quality"] == "accuracy"
    has_latency = any(point["latency"] for point in document["points"])
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    titles = ["parameters", "MACs", "bytes", "accuracy" if has_accuracy else "R removed"]
    for title in [*titles, *(["latency", "speed"] if has_latency else [])]:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for point in document["points"]:
        cells = [_costs(point, key) for key in ("params", "macs", "size_bytes")]
        cells.append(_accuracy(point) if has_accuracy else f"{point['r_mass_removed_share']:.1%}")
        cells += _latency(point) if has_latency else []
        style = "bold" if point["is_knee"] else None
        table.add_row(escape(point["budget"] or "original"), *cells, _mark(point), style=style)
    return table


def _costs(point: Document, key: str) -> str:
    share = point["left"][key]
    return short(point["costs"][key]) + ("" if share is None else f" [dim]{share:>6.1%}[/]")


def _accuracy(point: Document) -> str:
    row = point["accuracy"]
    return f"{row['value']:.1%} [dim]({row['low']:.1%} to {row['high']:.1%})[/]"


def _latency(point: Document) -> list[str]:
    row = point["latency"]
    if row is None:
        return ["100%", "1.00x"]
    noisy = " [yellow]noisy[/]" if row["is_noisy"] else ""
    interval = f"[dim]({row['speedup_low']:.2f} to {row['speedup_high']:.2f})[/]"
    return [f"{row['left']:.0%}", f"{row['speedup']:.2f}x {interval}{noisy}"]


def _mark(point: Document) -> str:
    if point["is_knee"]:
        return "[green]knee[/]"
    return "" if point["non_dominated"] else "[dim]beaten[/]"


def _knee_lines(document: Document) -> Iterator[tuple[str, str]]:
    knee = document["knee"]
    point = next((row for row in document["points"] if row["is_knee"]), None)
    name = "none" if point is None else point["budget"] or "original"
    yield "knee", f"[bold]{escape(name)}[/]: {escape(knee['reason'])}"
    if any(not row["non_dominated"] for row in document["points"]):
        good = "accurate" if document["quality"] == "accuracy" else "good"
        yield "beaten", f"another network is as cheap and as {good}, and better in one of the two"


def _fact_lines(document: Document, folder: Path) -> Iterator[tuple[str, str]]:
    proofs = [point["proof"] for point in document["points"] if point["proof"]]
    largest = max((row["max_relative_error"] for row in proofs), default=0.0)
    yield "proof", f"{len(proofs)} removals exact: relative error at most {largest:.1e}"
    if document["num_test_images"]:
        yield "accuracy", f"after repair, on {document['num_test_images']:,} test images"
    target = document["target"]
    if any(point["latency"] for point in document["points"]):
        yield (
            "latency",
            f"share of the original's on {escape(target['name'])}, in races of at most "
            f"{target['max_seconds']:g} s, shorter than shrink's",
        )
    for text in document["notes"]:
        yield "note", escape(text)
    yield "files", escape(f"{folder}: sweep.json, {len(proofs)} plans in plans/")
    yield "report", f"[bold]{escape(str(folder / 'sweep.html'))}[/]"
