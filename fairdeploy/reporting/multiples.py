"""What channel counts are rounded to, and who says so, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORIGINS = {
    "profile": "as the target's profile says",
    "--round-to": "as asked with --round-to",
    "not measured": "the default: it was not measured on this target",
    "budget": "since with the coarser ones that the target likes the budget is out of reach",
}


def multiple_text(row: Mapping[str, Any]) -> str:
    """``multiples of 16, measured on the target by this run``."""
    if row["source"] == "measured":
        when = "by an earlier run" if row["is_cached"] else "by this run"
        return f"multiples of {row['number']}, measured on the target {when}"
    counts = "any count" if row["number"] == 1 else f"multiples of {row['number']}"
    return f"{counts}, {ORIGINS[row['source']]}"
