"""What ``fairdeploy measure`` shows on the terminal, from its document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.reporting.quantities import NO_CLAIM

Document = Mapping[str, Any]


def measure_summary(document: Document) -> RenderableType:
    """One table with a line for each file, batch and number of threads; then the facts."""
    return Group(_table(document), Text(), *_remarks(document))


def _table(document: Document) -> Table:
    table = Table(box=None, pad_edge=False)
    gap_ms = document["target"]["idle_gap_ms"]
    titles = ["ms", "p90", "p99", "images/s", "cold start ms"]
    titles += [f"every {gap_ms:g} ms"] if gap_ms else []
    titles += ["times as fast"] if len(document["files"]) > 1 else []
    table.add_column("file")
    for title in ("batch", "threads", *titles):
        table.add_column(title, justify="right")
    for row in document["rows"]:
        for place, file in zip(("first", "second"), document["files"], strict=False):
            table.add_row(*_cells(row, place, file))
    return table


def _cells(row: Document, place: str, file: Document) -> Iterator[str]:
    network = row[place]
    yield f"[bold]{escape(file['path'])}[/]"
    yield str(row["batch"])
    yield str(row["threads"])
    for key in ("ms", "p90_ms", "p99_ms"):
        yield f"{network[key]:.3g}"
    yield f"{network['images_per_second']:.3g}"
    yield f"{network['cold_start_ms']:.3g}"
    if network["idle_gap"]:
        yield f"{network['idle_gap']['median_ms']:.3g}"
    if place == "second":
        speedup = row["speedup"]
        claim = NO_CLAIM if row["is_too_busy"] else f"{speedup['value']:.2f}"
        yield f"{claim} [dim]({speedup['low']:.2f} to {speedup['high']:.2f})[/]"


def _remarks(document: Document) -> Iterator[Text]:
    rows = document["rows"]
    device = rows[0]["device"]
    clock = f", governor {device['governor']}" if device["governor"] else ""
    load = device["load_before"]
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    yield Text(
        f"{device['cpu']}, {device['cores']} cores{clock}, {device['surroundings']}; "
        f"{', '.join(rows[0]['providers'])}; {versions}"
        + (f"; load average {load:.1f}" if load is not None else "")
    )
    for row in rows:
        name = f"batch {row['batch']}, threads {row['threads']}"
        yield Text(f"{name}: stopped because {row['stopped_because']}", style="dim")
        if row["is_noisy"]:
            text = "the machine was busy: ratios hold better than milliseconds"
            yield Text(f"{name}: {text}", style="yellow")
