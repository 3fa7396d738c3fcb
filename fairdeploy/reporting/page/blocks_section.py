"""Which residual blocks went as a whole, where that was allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairdeploy.reporting.page.markup import NOTHING, Html, dotted, section, table
from fairdeploy.reporting.quantities import MISSING

Row = Mapping[str, Any]


def blocks(rows: Sequence[Row]) -> Html:
    """One row for each block; nothing where blocks had to stay."""
    if not rows:
        return NOTHING
    gone = sum(row["is_gone"] for row in rows)
    return section(
        "Residual blocks",
        table(("block", "", "U-Score", "R-Score", "goes from tolerance"), map(_cells, rows),
              numeric_from=2),
        lead=f"{gone} of {len(rows)} residual blocks are gone as a whole: nothing is added to "
        "their shortcuts. Blocks are units of one more group under the same rule. R is how far the "
        "answers move without the block and all that go before it (divergence of the class "
        "probabilities); U is the same, 1 on average. The first block of a stream always stays.",
    )  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    state = "gone" if row["is_gone"] else "stays" if row["may_go"] else "must stay"
    tolerance = row["tolerance"] if row["may_go"] else None
    return (
        dotted(row["module"]),
        state,
        f"{row['u_score']:.2f}",
        f"{row['r_score']:.3g}",
        MISSING if tolerance is None else f"{tolerance:.3f}",
    )
