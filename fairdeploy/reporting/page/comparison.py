"""``comparison.html``: results side by side on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairdeploy.reporting.comparison import comparison_table, verdict_lines
from fairdeploy.reporting.page.page import render_page

COMPARISON_PAGE = "comparison.html"


def render_comparison(document: Mapping[str, Any], file: str) -> str:
    """The whole page as one string; every text from the runs is escaped.

    Args:
        document: Of ``build_comparison``.
        file: Name of the file with its numbers.
    """
    titles, rows = comparison_table(document)
    return render_page(
        f"{len(titles)} results side by side", {"Comparison": "comparison.html"}, file,
        titles=titles, rows=rows, verdicts=verdict_lines(document),
    )  # fmt: skip
