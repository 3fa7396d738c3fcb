"""What the theory says of the plan: R-mass that went, its bound, and uniform pruning's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from fairdeploy.reporting.quantities import percent, share_of

Row = Mapping[str, Any]
_MINUS = "\N{MINUS SIGN}"
_HEADERS = (
    "group", "k", "ToD(k)", "removed", "protected", "R removed", "bound", "uniform removes",
    "its R", "exchange",
)  # fmt: skip


def theory(groups: Sequence[Row], exchange: Row, method: Row) -> Html:
    """The sums in words, and a table of every group to open; nothing where nothing can go."""
    removable = [row for row in groups if row["frozen_reason"] is None]
    if not removable:
        return NOTHING
    return section(
        "What was given up",
        tag("p", _compared(exchange)),
        details("The numbers of every group", _explained(), _table(removable, exchange)),
        lead=f"{_r_mass(method)} {_short(exchange['r_mass_removed'])} of "
        f"{_short(exchange['r_mass_total'])} went "
        f"({percent(share_of(exchange['r_mass_removed'], exchange['r_mass_total']))}); that so few "
        f"of the removed units were protected bounds it by {_short(exchange['r_mass_bound'])}.",
    )


def shared_knob(method: Row, value: float) -> Html:
    """How another rule than ToD shared out."""
    rule = {
        "uniform": f"The same share, {percent(value)}, goes from every group.",
        "global": f"Every unit goes whose '{method['signal']}', divided by the mean of its group, "
        f"is at most {value:.3f}.",
        "isomorphic": f"The same share, {percent(value)}, goes from each kind of group; groups of "
        "one kind are made, normed and read by the same sorts of layers, and their units compete.",
    }[method["allocation"]]
    return section(
        "How it was shared out",
        tag("p", rule),
        lead=f"By the rule '{method['allocation']}', not by the tolerance of difference. Counts "
        "are rounded to the nearest multiple of units; then the units that went last were given "
        "back until the budget was just met.",
    )


def _r_mass(method: Row) -> str:
    if method["protect"] == "taylor":
        return "R-mass is a sum of R-Scores, a first-order estimate of what the loss gains."
    signal = method["signal"] if method["protect"] == "none" else method["protect"]
    return f"R-mass is here a sum of the signal that protects, '{signal}'."


def _compared(exchange: Row) -> str:
    difference = exchange["r_mass_uniform_minus_tod"]
    verdict = "in favour of this plan" if difference > 0 else "against this plan"
    return (
        f"Uniform pruning at the same budgets, {percent(exchange['uniform_fraction'])} of every "
        "group within the same limits and multiples, would have removed "
        f"{_short(exchange['r_mass_uniform'])}. The additive exchange is {_signed(difference)}"
        + (f", {verdict}." if difference else ": no difference.")
    )


def _explained() -> Html:
    return tag(
        "p",
        "k is the prefix that the rule allowed, before rounding and give-back; ToD(k) its share of "
        "protected units. Of the units that were removed in the end, 'protected' is the share "
        "among as many most protected ones; no units of that number and share can hold more R than "
        "the bound. R and bound are shares of the group's R-mass; the exchange is uniform "
        "pruning's R-mass minus the plan's.",
        class_="lead",
    )


def _table(rows: Sequence[Row], exchange: Row) -> Html:
    lines = [
        (
            dotted(row["name"]),
            str(row["prefix_length"]),
            f"{row['tod']:.3f}",
            str(row["units"] - row["kept"]),
            percent(row["share_protected"], 0),
            _share(row, "r_mass_removed"),
            _share(row, "r_mass_bound_removed"),
            str(row["num_removed_uniform"]),
            _share(row, "r_mass_uniform"),
            _signed(row["r_mass_uniform"] - row["r_mass_removed"]),
        )
        for row in rows
    ]
    removed, by_uniform = (
        sum(row["units"] - row["kept"] for row in rows),
        sum(row["num_removed_uniform"] for row in rows),
    )
    total = (
        join((tag("b", "all"),)), "", "", str(removed), "", _share(exchange, "r_mass_removed"),
        _share(exchange, "r_mass_bound"), str(by_uniform), _share(exchange, "r_mass_uniform"),
        _signed(exchange["r_mass_uniform_minus_tod"]),
    )  # fmt: skip
    return table(_HEADERS, [*lines, total])


def _share(row: Row, key: str) -> str:
    return percent(share_of(row[key], row["r_mass_total"]))


def _short(value: float) -> str:
    return f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", _MINUS)
