"""What ``fairdeploy doctor`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.summaries.tables import two_columns

Document = dict[str, Any]


def doctor_summary(document: Document) -> RenderableType:
    """Versions, devices, what works, and problems with what to do about them."""
    problems = [("[bold red]problem[/]", text) for text in document["problems"]]
    return Group(
        two_columns([(label, escape(text)) for label, text in _versions(document)]),
        Text(),
        _abilities(document),
        Text(),
        two_columns([(label, escape(text)) for label, text in problems or [("problems", "none")]]),
    )


def _versions(document: Document) -> Iterator[tuple[str, str]]:
    device, packages = document["device"], document["packages"]
    yield "python", document["python"]
    yield "packages", ", ".join(f"{name} {found}" for name, found in packages.items() if found)
    missing = [name for name, found in packages.items() if not found]
    if missing:
        yield "not installed", ", ".join(missing)
    yield "cpu", f"{device['cpu']}, {device['cores']} cores, {device['machine']}"
    for gpu in document["gpu"]["devices"]:
        memory = f", {gpu['memory_mib']} MiB" if gpu["memory_mib"] else ""
        capability = gpu["compute_capability"]
        yield (
            "gpu",
            (
                f"{gpu['name']}{memory}, driver {gpu['driver']}"
                + (f", compute capability {capability}" if capability else "")
            ),
        )
    if document["gpu"]["problem"]:
        yield "gpu", document["gpu"]["problem"]
    providers = (document["runtimes"].get("onnxruntime") or {}).get("providers")
    if providers:
        yield "providers", ", ".join(providers)


def _abilities(document: Document) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for title in ("what", "works here", "with, or why not"):
        table.add_column(title)
    for row in document["abilities"]:
        detail = escape(row["detail"])
        if row["install"]:
            detail += f"; run [bold]{escape(row['install'])}[/]"
        table.add_row(f"[bold]{escape(row['name'])}[/]", "yes" if row["works"] else "no", detail)
    return table
