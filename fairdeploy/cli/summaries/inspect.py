"""``inspect`` on the terminal: costs, the module tree, the largest groups, what stays and why."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.summaries.shrink import restriction_lines, short
from fairdeploy.cli.summaries.tables import two_columns
from fairdeploy.records import UNMEASURED_MULTIPLE
from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.quantities import multiple_text
from fairdeploy.runs.inspect.alike_groups import alike_groups, common_glob
from fairdeploy.runs.inspect.module_tree import deepest_tree_that_fits, tree
from fairdeploy.runs.inspect.standing_rows import NEVER_USED

Document = Mapping[str, Any]

_MAX_TREE_ROWS = 30
_MAX_GROUPS = 12
_MAX_LINES = 3
_MAX_NAMES = 2
_NEARLY_NONE = 0.005
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def inspection_summary(document: Document, *, depth: int | None = None) -> RenderableType:
    """Everything that ``inspect`` found out, short enough to read.

    Args:
        document: Of ``inspection.inspect``.
        depth: Levels of the module tree; None for as many as fit.
    """
    lines = [*_cost_lines(document["cost"]), *_count_lines(document.get("channel_multiple"))]
    parts: list[RenderableType] = [two_columns(lines)]
    blocks = list(_block_lines(document["blocks"]))
    if blocks:
        parts += [Text(), two_columns(blocks)]
    restrictions = list(restriction_lines(document["restrictions"]))
    if restrictions:
        parts += [Text(), two_columns(restrictions)]
    parts += [Text(), _module_table(document, depth)]
    if document["stays"]:
        parts += [Text(), _standing_table(document["stays"])]
    if document["unknown_ops"]:
        parts += [Text(), _unknown_table(document["unknown_ops"])]
    if document["groups"]:
        parts += [Text(), _group_table(document["groups"])]
    if document["proof"] is not None:
        parts += [Text(), two_columns(list(_proof_lines(document)))]
    return Group(*parts)


def _cost_lines(cost: Document) -> Iterator[tuple[str, str]]:
    for metric, row in cost.items():
        yield (
            METRICS[metric].title,
            f"{short(row['original'])}, of which {row['removable_share']:.1%} can go "
            f"[dim](smallest allowed plan: {short(row['smallest'])})[/]",
        )


def _count_lines(row: Document | None) -> Iterator[tuple[str, str]]:
    """What the smallest plan's channel counts are multiples of."""
    if row is None:
        return
    note = ""
    if row["source"] == "not measured":
        note = "sweep and latency budgets measure it"
    elif row["source"] == "measured" and row["number"] != UNMEASURED_MULTIPLE:
        note = f"sweep and latency budgets keep to it, other budgets to {UNMEASURED_MULTIPLE}"
    yield "counts", escape(multiple_text(row)) + (f" [dim]({note})[/]" if note else "")


def _block_lines(rows: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """Which residual blocks may go as a whole."""
    names = [escape(row["module"]) for row in rows if row["may_go"]]
    if rows:
        which = f": {', '.join(names)}" if names else ""
        yield "blocks", f"{len(names)} of {len(rows)} residual blocks may go{which}"


# ---- modules -----------------------------------------------------------------------------------


def _module_table(document: Document, depth: int | None) -> RenderableType:
    rows = document["modules"]
    lines = tree(rows, depth) if depth is not None else deepest_tree_that_fits(rows, _MAX_TREE_ROWS)
    table = _table("what can go, by module")
    table.add_column("module", overflow="fold")
    for title in ("parameters", "can go"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("held by", no_wrap=True)
    for line in lines:
        row = line.row
        label = "  " * line.level + escape(line.label)
        label += f" [dim]({line.num_alike} alike, each)[/]" if line.num_alike > 1 else ""
        share = row["removable_params"] / row["params"] if row["params"] else 0.0
        letters = " ".join(_letter(index) for index in row["stays"])
        table.add_row(label, short(row["params"]), _percent(share), letters)
    return table


def _percent(share: float) -> str:
    """Whole per cent; never 100 where something stays, nor 0 where something goes."""
    if 0 < share < _NEARLY_NONE:
        return "<1%"
    return ">99%" if 1 - _NEARLY_NONE < share < 1 else f"{share:.0%}"


def _letter(index: int) -> str:
    """The letters a to z, then a2 and so on."""
    turn, place = divmod(index, len(_LETTERS))
    return _LETTERS[place] + (str(turn + 1) if turn else "")


# ---- what stays --------------------------------------------------------------------------------


def _standing_table(rows: Sequence[Document]) -> RenderableType:
    table = _table("what keeps its width, and why")
    table.add_column("", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(_letter(index), short(row["params"]), _because(row))
    return table


def _because(row: Document) -> str:
    names = _few([escape(name) for name in row["modules"]], _MAX_NAMES)
    if row["op"] == NEVER_USED:
        return f"{escape(row['reason'])}: {names}"
    if not row["op"]:
        return f"[bold]{escape(row['reason'])}[/] holds {_groups(len(row['modules']))}: {names}"
    text = escape(row["reason"])
    if row["op"] != "output":
        text = f"[bold]{escape(_calls(row['op'], row['count']))}[/]: {text}"
    return text + _issued_at(row["source_lines"])


def _groups(count: int) -> str:
    return f"{count} group" if count == 1 else f"{count} groups"


def _calls(op: str, count: int) -> str:
    """``29 layer norms``, ``1 call of 'cumsum'``."""
    plural = "" if count == 1 else "s"
    if op.endswith("norm"):
        return f"{count} {op.replace('_', ' ')}{plural}"
    return f"{count} call{plural} of '{op}'"


def _issued_at(lines: Sequence[Document]) -> str:
    if not lines:
        return ""
    return f"\n[dim]at {_few([escape(_short_path(row['line'])) for row in lines], _MAX_LINES)}[/]"


def _short_path(line: str) -> str:
    """A source line without the folder that packages are installed in, or the working folder."""
    for folder in (sysconfig.get_path("purelib"), str(Path.cwd())):
        line = line.removeprefix(f"{folder}/")
    return line


def _few(texts: Sequence[str], most: int) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _unknown_table(rows: Sequence[Document]) -> RenderableType:
    table = _table("operations without a rule, so that all they touch is left alone")
    table.add_column("operation", no_wrap=True)
    table.add_column("calls", justify="right")
    table.add_column("issued by", overflow="fold")
    for row in rows:
        lines = [f"{_short_path(item['line'])} ({item['count']}x)" for item in row["source_lines"]]
        places = lines or [name or "the network itself" for name in row["modules"]]
        table.add_row(escape(row["op"]), str(row["count"]), escape(_few(places, _MAX_LINES)))
    return table


# ---- groups and proof --------------------------------------------------------------------------


def _group_table(rows: Sequence[Document]) -> RenderableType:
    """The groups that save most, those that look alike in one row."""
    alike = sorted(alike_groups(rows), key=lambda names: -names[1]["removable_params"])
    table = _table("largest groups of units that go together")
    table.add_column("made by", overflow="fold")
    for title in ("groups", "units", "at least", "channels each", "saves alone"):
        table.add_column(title, justify="right", no_wrap=True)
    for names, row in alike[:_MAX_GROUPS]:
        table.add_row(
            escape(common_glob(names)), str(len(names)), f"{row['units']:,}",
            f"{row['smallest']:,}", str(row["channels_per_unit"]), short(row["removable_params"]),
        )  # fmt: skip
    if len(alike) > _MAX_GROUPS:
        rest = sum(len(names) for names, _ in alike[_MAX_GROUPS:])
        return Group(table, Text(f"… and {rest} more groups; --json lists all", style="dim"))
    return table


def _proof_lines(document: Document) -> Iterator[tuple[str, str]]:
    proof = document["proof"]
    share = proof["params_left"] / document["cost"]["params"]["original"]
    yield (
        "removed",
        f"{proof['num_removed_units']:,} of {document['units']:,} units at random; "
        f"{share:.1%} of the parameters stay",
    )
    seconds = ", ".join(f"{name} {time:.1f} s" for name, time in proof["seconds"].items())
    error = proof["max_relative_error"]
    shown = "none" if error is None else f"{error:.1e}"
    verdict = "[green]exact[/]" if proof["passed"] else "[red]NOT EXACT[/]"
    yield "proof", f"{verdict}: relative error {shown} (limit {proof['limit']:.0e})"
    if proof["problem"]:
        yield "problem", escape(proof["problem"])
    yield "effort", f"{proof['nodes']:,} operations; {seconds}"
    own = proof["own_class"]
    yield (
        "own class",
        "comes back" if own["rebuilt"] else f"does not come back: {escape(own['problem'])}",
    )


def _table(title: str) -> Table:
    return Table(box=None, title=title, title_justify="left", title_style="bold", pad_edge=False)
