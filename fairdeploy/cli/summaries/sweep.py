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

from fairdeploy.cli.summaries.shrink import method_lines, not_judged_lines, short
from fairdeploy.cli.summaries.tables import lines_of, shown, two_columns
from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.quantities import change_text, multiple_text, quality_name, repaired

Document = Mapping[str, Any]


def sweep_summary(document: Document, folder: Path) -> RenderableType:
    """Everything that a user wants to know first."""
    lines = two_columns(
        list(
            lines_of(
                lambda: _knee_lines(document),
                lambda: method_lines(document.get("method")),
                lambda: _fact_lines(document, folder),
            )
        )
    )
    return Group(Text(), shown(lambda: _points_table(document)), Text(), lines)


def next_commands(document: Document) -> str:
    """What to type next, each command on one line; to be printed unbroken."""
    knee = document["knee"]
    commands = (
        ("make the knee's network with", knee["command"]),
        ("look closer at it with", knee["closer_command"]),
    )
    return "".join(
        f"\n[bold]{title}[/]\n  {escape(command)}" for title, command in commands if command
    )


def _points_table(document: Document) -> Table:
    """Cost, accuracy and speed of each network; the intervals wrap where it is narrow."""
    has_accuracy = document["quality"] == "accuracy"
    has_latency = any(point["latency"] for point in document["points"])
    metrics = dict.fromkeys((document["metric"], "params", "macs"))
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(METRICS[metric].unit, justify="right", no_wrap=True)
    table.add_column(quality_name(document) if has_accuracy else "R removed", justify="right")
    if has_latency:
        table.add_column("speed", justify="right")
    table.add_column("", no_wrap=True)
    for point in document["points"]:
        cells = [_cost(point, METRICS[metric].key) for metric in metrics]
        cells.append(_accuracy(point) if has_accuracy else f"{point['r_mass_removed_share']:.1%}")
        cells += [_speed(point)] if has_latency else []
        style = "bold" if point["is_knee"] else None
        table.add_row(escape(point["budget"] or "original"), *cells, _mark(point), style=style)
    return table


def _cost(point: Document, key: str) -> str:
    share = point["left"][key]
    return short(point["costs"][key]) + ("" if share is None else f" [dim]{share:>6.1%}[/]")


def _accuracy(point: Document) -> str:
    row = point["accuracy"]
    return f"{row['value']:.1%} [dim]({row['low']:.1%} to {row['high']:.1%})[/]"


def _speed(point: Document) -> str:
    row = point["latency"]
    if row is None:
        return ""
    interval = f"[dim]({row['speedup_low']:.2f} to {row['speedup_high']:.2f})[/]"
    return f"{'no claim' if row['is_too_busy'] else format(row['speedup'], '.2f') + 'x'} {interval}"


def _mark(point: Document) -> str:
    if point["is_knee"]:
        return "[green]knee[/]"
    return "frontier" if point["non_dominated"] else ""


def _knee_lines(document: Document) -> Iterator[tuple[str, str]]:
    knee = document["knee"]
    point = next((row for row in document["points"] if row["is_knee"]), None)
    name = "none" if point is None else point["budget"] or "original"
    yield "knee", f"[bold]{escape(name)}[/]: {escape(knee['reason'])}"
    if point is not None and point["difference"]:
        yield (
            "",
            f"against the original on the same images, {quality_name(document)} "
            f"{change_text(point['difference'])}",
        )
    good = "accurate" if document["quality"] == "accuracy" else "good"
    yield "frontier", f"no cheaper network is as {good}"


def _fact_lines(document: Document, folder: Path) -> Iterator[tuple[str, str]]:
    proofs = [point["proof"] for point in document["points"] if point["proof"]]
    largest = max((row["max_relative_error"] for row in proofs), default=0.0)
    apart = sum(bool(row["num_coupled_norms"]) for row in proofs)
    yield (
        "proof",
        f"{len(proofs)} removals exact: relative error at most {largest:.1e}"
        + (f"; in {apart} of them layer norms apart, as allowed" if apart else ""),
    )
    yield from not_judged_lines(document)
    if document["num_test_images"]:
        how = repaired(document["recovery"])
        yield quality_name(document), f"{how}, on {document['num_test_images']:,} test images"
    races = [point["latency"] for point in document["points"] if point["latency"]]
    if races:
        target, wide = document["target"], sum(race["is_wide"] for race in races)
        yield (
            "speed",
            f"against the original on {escape(target['name'])}, in races of at most "
            f"{target['max_seconds']:g} s, shorter than shrink's"
            + (f"; {wide} of {len(races)} intervals are wide: a busy machine" if wide else ""),
        )
    yield "counts", escape(multiple_text(document["channel_multiple"]))
    for text in document["notes"]:
        yield "note", escape(text)
    yield "files", escape(f"{folder}: sweep.json, {len(proofs)} plans in plans/")
    yield "report", f"[bold]{escape(str(folder / 'sweep.html'))}[/]"
