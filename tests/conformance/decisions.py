"""What follows from each failure that is known: model name to one sentence for the table."""

from __future__ import annotations

DECISIONS: dict[str, str] = {}
