"""What rounding channel counts to a multiple cost and gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.records.metrics import METRICS
from fairdeploy.reporting.multiples import ORIGINS
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
from fairdeploy.reporting.quantities import (
    amount,
    factor,
    milliseconds,
    seconds,
    share_of,
    short,
)

Row = Mapping[str, Any]
_COUNTED = ("params", "macs", "size", "latency")


def rounding(row: Row | None) -> Html:
    """Cost and gain, the sweep, and the groups; nothing where any count was allowed."""
    if row is None:
        return NOTHING
    return section(
        "Channel multiples",
        tag("p", _origin(row)),
        _price(row),
        _sweep(row["choice"]) if row["choice"] else NOTHING,
        _groups(row["groups"]),
        lead="Kernels work in blocks of channels: a count between two steps pays for the next one. "
        "So the plan's counts are rounded, to the nearest, within the budget; narrow layers take "
        "smaller steps where latency does not decide.",
    )


def _origin(row: Row) -> str:
    multiple, choice = row["multiple"], row["choice"]
    if row["source"] == "measured":
        when = "by an earlier run" if choice["is_cached"] else "by this run"
        gain = share_of(_cost(choice, 1), _cost(choice, multiple))
        return (
            f"Multiples of {multiple}, measured on the target {when} in "
            f"{seconds(choice['seconds'])}. With any counts, the sweep's network takes "
            f"{factor(gain)} as long for the same work."
        )
    return f"Multiples of {multiple}, {ORIGINS[row['source']]}."


def _cost(choice: Row, multiple: int) -> float | None:
    costs = {row["multiple"]: row["relative_cost"] for row in choice["costs"]}
    return costs.get(multiple)


def _price(row: Row) -> Html:
    """The plan beside the one that any counts would have given."""
    rows = [
        (
            METRICS[metric].words,
            amount(metric, row["costs"][metric]),
            amount(metric, row["costs_unrounded"][metric]),
        )
        for metric in _COUNTED
        if metric in row["costs"] and metric in row["costs_unrounded"]
    ]
    mass = ("R-mass removed", short(row["r_mass"]), short(row["r_mass_unrounded"]))
    return table(("plan for the same budgets", "rounded", "any counts"), [*rows, mass])


def _sweep(choice: Row) -> Html:
    costs = (
        (
            f"multiples of {row['multiple']}",
            factor(row["relative_cost"]),
            f"{factor(row['low'])} to {factor(row['high'])}",
        )
        for row in choice["costs"]
    )
    widths = ((str(row["channels"]), milliseconds(row["ms"])) for row in choice["rows"])
    return details(
        "The sweep",
        table(
            ("counts that are", "time for the same work, beside multiples of 32", "95 % interval"),
            costs,
        ),
        table(("channels", "time of a small network of that width"), widths),
    )


def _groups(rows: Sequence[Row]) -> Html:
    changed = [row for row in rows if row["kept"] != row["kept_unrounded"]]
    if not changed:
        return tag("p", "Any counts would have given the same plan.", class_="after")
    lines = (
        (
            dotted(row["name"]),
            str(row["units"]),
            str(row["kept"]),
            str(row["kept_unrounded"]),
            f"{row['kept'] - row['kept_unrounded']:+d}",
        )
        for row in changed
    )
    title = f"Groups whose counts rounding changed: {len(changed)} of {len(rows)}"
    headers = ("group", "units", "kept", "any counts", "difference")
    return join((details(title, table(headers, lines)),))
