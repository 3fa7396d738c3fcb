"""Where the units went: kept widths, ToD curves, and what had to stay and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.reporting.page.charts import share_bar, tod_chart
from fairdeploy.reporting.page.markup import (
    NOTHING,
    Html,
    details,
    dotted,
    join,
    section,
    table,
    tag,
)
from fairdeploy.reporting.quantities import MISSING, count, percent, plural, share_of

Row = Mapping[str, Any]
MAX_BARS = 60
MAX_CURVES = 60
_MAX_FREEZES = 200


def kept_units(groups: Sequence[Row]) -> Html:
    """One bar for each removable group; the rest of a very deep network in a table."""
    removable = _removable(groups)
    units, kept = (sum(row[key] for row in removable) for key in ("units", "kept"))
    changed = sum(row["kept"] < row["units"] for row in removable)
    if not removable:
        return section("Kept units", lead="Nothing in this network can be removed.")
    shown, rest = removable[:MAX_BARS], removable[MAX_BARS:]
    return section(
        "Kept units",
        tag("div", *map(_kept_row, shown), class_="rows"),
        details(plural(len(rest), "further group"), _kept_table(rest)) if rest else NOTHING,
        lead=f"{kept:,} of {units:,} units stay; {changed} of {len(removable)} groups became "
        "narrower. A unit is everything that has to go together: a channel with its filters, "
        "norm entries and readers, a neuron, or an attention head.",
    )


def tod_curves(
    groups: Sequence[Row], curves: Mapping[str, NDArray[np.float64]], tolerance: float
) -> Html:
    """Small charts of ToD(k), for the groups that lost most."""
    removable = [row for row in _removable(groups) if row["name"] in curves]
    if not removable:
        return NOTHING
    lost = sorted(removable, key=lambda row: row["kept"] - row["units"])[:MAX_CURVES]
    chosen = {row["name"] for row in lost}
    charts = (
        _tod_figure(row, curves[row["name"]], tolerance)
        for row in removable
        if row["name"] in chosen
    )
    hidden = len(removable) - len(lost)
    which = (
        f"Shown are the {len(lost)} groups that lost most; {hidden} others are in the table below. "
    )
    return section(
        "Tolerance of difference",
        _tod_legend(),
        tag("div", *charts, class_="curves"),
        lead=(which if hidden else "")
        + "ToD(k) is the share of the k units proposed for removal that are also among the k most "
        f"protected. Every group is cut to the deepest k with ToD at most {tolerance:.3f}, "
        "rounded to the nearest multiple of units; residual streams, whose units take a slice of "
        "every block, at less. Then the most valuable units were given back until the budget was "
        "just met.",
    )


def frozen_parts(groups: Sequence[Row], freezes: Sequence[Row], num_params: int) -> Html:
    """What keeps its width, by reason, and the operations that caused it."""
    frozen = [row for row in groups if row["frozen_reason"] is not None]
    if not frozen and not freezes:
        return section("Frozen parts", lead="Nothing: every unit of this network can be removed.")
    return section(
        "Frozen parts",
        _unknown_operations(freezes),
        _reasons_table(frozen, num_params) if frozen else NOTHING,
        details(plural(len(frozen), "frozen part"), _frozen_table(frozen)) if frozen else NOTHING,
        _freeze_details(freezes),
        lead="These keep their width, because removing a part of them could not be exact.",
    )


def _unknown_operations(freezes: Sequence[Row]) -> Html:
    names = sorted({row["op"] for row in freezes if row["is_unknown_op"]})
    if not names:
        return NOTHING
    text = "Operations without a rule, so that everything they touch is kept: "
    return tag("p", text, tag("code", ", ".join(names)), ".")


def _reasons_table(frozen: Sequence[Row], num_params: int) -> Html:
    by_reason: dict[str, list[Row]] = defaultdict(list)
    for row in frozen:
        by_reason[row["frozen_reason"]].append(row)
    rows = [
        (reason, str(len(parts)), count(_params(parts)), percent(_params(parts) / num_params))
        for reason, parts in sorted(by_reason.items(), key=lambda item: -_params(item[1]))
    ]
    return table(("reason", "parts", "parameters", "of all"), rows)


def _frozen_table(frozen: Sequence[Row]) -> Html:
    rows = (
        (
            join((dotted(row["name"]), tag("span", _held_by(row), class_="under"))),
            f"{row['units']:,}",
            count(row["params"]),
        )
        for row in frozen
    )
    return table(("part", "width", "parameters"), rows)


def _held_by(row: Row) -> str:
    """The reason, and the module that it comes from."""
    place = row["frozen_at"]
    return f"{row['frozen_reason']} (at '{place}')" if place else str(row["frozen_reason"])


def _removable(groups: Sequence[Row]) -> list[Row]:
    return [row for row in groups if row["frozen_reason"] is None]


def _kept_row(row: Row) -> Html:
    share = share_of(row["kept"], row["units"]) or 0.0
    label = f"{row['name']}: {row['kept']} of {row['units']} units kept"
    return tag(
        "div",
        tag("span", dotted(row["name"]), class_="label"),
        share_bar(share, label),
        tag("span", tag("b", f"{row['kept']:,}"), f" of {row['units']:,}", class_="figure"),
        class_="row",
    )


def _kept_table(rows: Sequence[Row]) -> Html:
    cells = (
        (dotted(row["name"]), f"{row['units']:,}", f"{row['kept']:,}",
         percent(share_of(row["kept"], row["units"]), 0))
        for row in rows
    )  # fmt: skip
    return table(("group", "units", "kept", "share"), cells)


def _tod_figure(row: Row, curve: NDArray[np.float64], tolerance: float) -> Html:
    num_removed = row["units"] - row["kept"]
    note = f"{num_removed} of {row['units']} removed"
    reluctance = row.get("reluctance", 0.0)
    own_tolerance = max(0.0, (tolerance - reluctance) / (1.0 - reluctance))
    chart = tod_chart(
        curve, own_tolerance, row["prefix_length"], num_removed, f"ToD of {row['name']}: {note}"
    )
    return tag("figure", tag("figcaption", dotted(row["name"]), tag("span", note)), chart)


def _tod_legend() -> Html:
    keys = (
        ("line curve-key", "ToD(k), k from 0 to all units; 0 to 1 upwards"),
        ("line tolerance-key", "tolerance"),
        ("dot-key", "deepest k allowed"),
        ("gone-key", "removed in the end"),
    )
    items = (tag("li", tag("i", class_=key), text) for key, text in keys)
    return tag("ul", *items, class_="legend")


def _params(rows: Sequence[Row]) -> int:
    return sum(row["params"] for row in rows)


def _freeze_details(freezes: Sequence[Row]) -> Html:
    if not freezes:
        return NOTHING
    cells = [
        (
            join((tag("code", row["op"]), " no rule yet" if row["is_unknown_op"] else "")),
            dotted(row["module_path"]) or MISSING,
            row["reason"],
            count(row["num_units"]),
        )
        for row in freezes[:_MAX_FREEZES]
    ]
    cut = f" (the first {_MAX_FREEZES})" if len(freezes) > _MAX_FREEZES else ""
    return details(
        f"{plural(len(freezes), 'operation')} behind this{cut}",
        table(("operation", "module", "reason", "units"), cells, numeric_from=3),
    )
