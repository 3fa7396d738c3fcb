"""Groups that differ in one number of their name only, under one glob: ``blocks.*.mlp.fc1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def alike_groups(rows: Sequence[Document]) -> list[tuple[list[str], Document]]:
    """Names of groups that differ in one number of their name only, and one of them."""
    found: list[tuple[list[str], Document]] = []
    for row in rows:
        for names, first in found:
            if _has_equal_numbers(row, first) and common_glob([*names, row["name"]]):
                names.append(row["name"])
                break
        else:
            found.append(([row["name"]], row))
    return found


def _has_equal_numbers(row: Document, other: Document) -> bool:
    keys = ("units", "smallest", "channels_per_unit", "removable_params")
    return all(row[key] == other[key] for key in keys)


def common_glob(names: Sequence[str]) -> str:
    """``blocks.*.fc1`` for names that differ in one numbered part; empty for others."""
    columns = list(zip(*(name.split(".") for name in names), strict=False))
    if len({name.count(".") for name in names}) > 1:
        return ""
    different = [place for place, parts in enumerate(columns) if len(set(parts)) > 1]
    if len(different) > 1 or not all(part.isdecimal() for d in different for part in columns[d]):
        return ""
    return ".".join("*" if place in different else parts[0] for place, parts in enumerate(columns))
