"""The end of a run on the terminal: budget, sizes, proof, accuracy, speed, and where things are.

Reads the document of ``report.json``, so that the terminal never says more than the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Document = Mapping[str, Any]

_SIZE_NAMES = {"params": "parameters", "macs": "MACs per image", "size_bytes": "bytes"}
_ACCURACY_STAGES = ("original", "pruned", "recovered", "exported")
_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def shrink_summary(document: Document, folder: Path) -> RenderableType:
    """Everything that a user wants to know first."""
    facts = _two_columns(
        [
            *_budget_lines(document["budget"]),
            *_check_lines(document),
            *_accuracy_lines(document["accuracy"]),
            *_latency_lines(document["latency"]),
            *_file_lines(document["artifacts"], folder),
        ]
    )
    return Group(Text(), _size_table(document["model"]), Text(), facts)


def inspection_summary(document: Document, *, max_rows: int = 40) -> RenderableType:
    """What can be removed and what cannot, largest first."""
    cost = document["cost"]
    lines = [
        (
            _SIZE_NAMES.get({"size": "size_bytes"}.get(metric, metric), metric),
            f"{short(row['original'])}, of which {row['removable_share']:.1%} can go",
        )
        for metric, row in cost.items()
    ]
    groups = Table(box=None, title="removable", title_justify="left", pad_edge=False)
    groups.add_column("group")
    groups.add_column("units", justify="right")
    groups.add_column("parameters", justify="right")
    by_size = sorted(document["groups"], key=lambda row: -row["removable_params"])
    for row in by_size[:max_rows]:
        groups.add_row(escape(row["name"]), f"{row['units']:,}", short(row["removable_params"]))
    parts: list[RenderableType] = [_two_columns(lines), Text(), groups]
    if len(by_size) > max_rows:
        parts.append(Text(f"… and {len(by_size) - max_rows} more; --json lists all"))
    if document["frozen"]:
        parts += [Text(), _frozen_table(document["frozen"], max_rows)]
    if document["unknown_ops"]:
        unknown = ", ".join(f"{op} ({count})" for op, count in document["unknown_ops"].items())
        parts += [Text(), Text(f"operations without a rule, left alone: {unknown}")]
    return Group(*parts)


def short(amount: float) -> str:
    """Three digits and a decimal prefix: ``1.23 M``."""
    for size, prefix in _PREFIXES:
        if amount >= size:
            return f"{amount / size:.3g}{prefix}"
    return f"{amount:g}"


def _frozen_table(rows: Sequence[Document], max_rows: int) -> RenderableType:
    table = Table(box=None, title="cannot be removed", title_justify="left", pad_edge=False)
    table.add_column("what")
    table.add_column("units", justify="right")
    table.add_column("because")
    for row in rows[:max_rows]:
        table.add_row(escape(row["name"]), f"{row['units']:,}", escape(row["reason"]))
    if len(rows) > max_rows:
        table.add_row(f"… and {len(rows) - max_rows} more", "", "")
    return table


def _two_columns(lines: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    return table


def _size_table(model: Document) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("original", "shrunk", "left"):
        table.add_column(title, justify="right")
    for key, name in _SIZE_NAMES.items():
        original, shrunk = model["original"][key], model["shrunk"][key]
        share = f"{shrunk / original:.1%}" if original else ""
        table.add_row(name, short(original), short(shrunk), share)
    return table


def _budget_lines(rows: Sequence[Document]) -> Iterator[tuple[str, str]]:
    for row in rows:
        share = f" ({row['got'] / row['original']:.2%})" if row["original"] else ""
        verdict = "[green]met[/]" if row["met"] else "[red]not met[/]"
        yield "budget", f"{escape(row['asked'])}: got {short(row['got'])}{share}, {verdict}"


def _check_lines(document: Document) -> Iterator[tuple[str, str]]:
    proof = document["proof"]
    yield (
        "proof",
        "the original with the removed units zeroed "
        f"{'equals' if proof['passed'] else 'DIFFERS FROM'} the shrunk network: "
        f"{_error(proof)}",
    )
    if proof.get("num_coupled_norms"):
        yield (
            "not exact",
            f"{proof['num_coupled_norms']} layer norms take their statistics over fewer channels: "
            "before repair the outputs differ by "
            f"{_plain(proof['norm_coupled_difference'])} of the largest output from the original "
            "with the removed units zeroed; the proof covers everything else",
        )
    for row in document["parity"]:
        yield (
            "parity",
            f"{escape(row['artifact'])} at batch {row['batch']}: {_error(row)}, "
            f"{row['top1_agreement']:.1%} same top-1",
        )


def _error(row: Document) -> str:
    return f"relative error {_plain(row['max_relative_error'])} (limit {row['limit']:.0e})"


def _plain(error: float | None) -> str:
    return "not a number" if error is None else f"{error:.1e}"


def _accuracy_lines(accuracy: Document) -> Iterator[tuple[str, str]]:
    steps = [
        f"{stage} {row['value']:.1%} [dim]({row['low']:.1%} to {row['high']:.1%})[/]"
        for stage in _ACCURACY_STAGES
        if (row := accuracy[stage]) is not None
    ]
    if steps:
        yield "accuracy", f"{', '.join(steps)} on {accuracy['num_images']:,} test images"


def _latency_lines(latency: Document | None) -> Iterator[tuple[str, str]]:
    if latency is None:
        return
    noisy = "; the machine was busy, so take it with caution" if latency.get("is_noisy") else ""
    yield (
        "latency",
        f"{latency['original_median_ms']:.3g} ms, now {latency['shrunk_median_ms']:.3g} ms on "
        f"{escape(latency['target'])}: {latency['speedup']:.2f} times as fast "
        f"[dim]({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})[/]{noisy}",
    )


def _file_lines(artifacts: Sequence[Document], folder: Path) -> Iterator[tuple[str, str]]:
    names = ", ".join(f"{row['path']} ({short(row['size_bytes'])}B)" for row in artifacts)
    yield "files", escape(f"{folder}: {names}")
    yield "report", f"[bold]{escape(str(folder / 'report.html'))}[/]"


def targets_table(rows: Sequence[Document]) -> RenderableType:
    """Name, whether it is usable here, and what it is."""
    table = Table(box=None, pad_edge=False)
    for title in ("target", "usable here", "description"):
        table.add_column(title)
    for row in rows:
        usable = f"no: {escape(row['problem'])}" if row["problem"] else "yes"
        table.add_row(f"[bold]{escape(row['name'])}[/]", usable, escape(row["description"]))
    return table


def doctor_summary(document: Document) -> RenderableType:
    """Versions, exporters, and problems with what to do about them."""
    lines = [("python", document["python"])]
    lines += [(name, found or "not installed") for name, found in document["packages"].items()]
    lines += [(f"exporter {name}", escape(state)) for name, state in document["exporters"].items()]
    problems = document["problems"] or ["none"]
    lines += [("problem" if document["problems"] else "problems", escape(p)) for p in problems]
    return _two_columns(lines)


def demo_ending(folder: Path) -> RenderableType:
    """Where the report is, and what to type next."""
    shrunk = folder / "model-shrunk"
    return Group(
        Text(),
        _two_columns(
            [
                ("open", escape(str(shrunk / "report.html"))),
                ("next", f"fairdeploy inspect {escape(str(folder / 'model.pt'))}"),
                (
                    "",
                    f"cd {escape(str(folder))} && fairdeploy shrink model.pt --budget macs=30% "
                    "-o smaller",
                ),
                ("yours", "fairdeploy shrink YOUR_MODEL.pt --budget 40% --data YOUR_IMAGES"),
            ]
        ),
    )
