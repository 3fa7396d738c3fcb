"""Module rows as the lines of a tree, short enough to read: siblings that look alike share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the tree: a module, or several siblings that are alike."""

    row: Document
    level: int
    label: str
    num_alike: int = 1


def deepest_tree_that_fits(rows: Sequence[Document], max_lines: int) -> list[Line]:
    """As many levels as fit into ``max_lines``, at least one."""
    lines = tree(rows, 1)
    for depth in range(2, 1 + max((row["module"].count(".") + 1 for row in rows), default=1)):
        deeper = tree(rows, depth)
        if len(deeper) > max_lines:
            break
        lines = deeper
    return lines


def tree(rows: Sequence[Document], depth: int) -> list[Line]:
    """Lines down to ``depth`` levels; the whole network is level 0."""
    children: dict[str, list[Document]] = {}
    for row in rows:
        if row["module"]:
            children.setdefault(row["module"].rpartition(".")[0], []).append(row)
    root = [row for row in rows if not row["module"]]
    lines = [Line(row, 0, "the whole network") for row in root]
    if depth:
        lines += _below("", children, 1, depth)
    return lines


def _below(
    path: str, children: Mapping[str, Sequence[Document]], level: int, depth: int
) -> list[Line]:
    lines: list[Line] = []
    for alike in _alike(children.get(path, ()), children):
        row, label = alike[0], _label(alike)
        # A module whose only content is another one shares its line.
        inner = children.get(row["module"], ())
        while len(inner) == 1 and len(alike) == 1 and inner[0]["params"] == row["params"]:
            row = inner[0]
            label += f".{row['module'].rpartition('.')[2]}"
            inner = children.get(row["module"], ())
        lines.append(Line(row, level, label, len(alike)))
        if level < depth:
            lines += _below(row["module"], children, level + 1, depth)
    return lines


def _alike(
    rows: Sequence[Document], children: Mapping[str, Sequence[Document]]
) -> list[list[Document]]:
    """Neighbours that look the same, and whose insides do, in one list."""
    runs: list[list[Document]] = []
    for row in rows:
        if runs and _face(runs[-1][0], children) == _face(row, children):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _face(row: Document, children: Mapping[str, Sequence[Document]]) -> tuple[object, ...]:
    """All that the tree shows of a numbered module; the name of any other is a face of its own."""
    name = row["module"].rpartition(".")[2]
    own = (row["params"], row["removable_params"], tuple(row["stays"]))
    inner = children.get(row["module"], ())
    return (
        "" if name.isdecimal() else name,
        *own,
        tuple((child["module"].rpartition(".")[2], _face(child, children)) for child in inner),
    )


def _label(alike: Sequence[Document]) -> str:
    names = [row["module"].rpartition(".")[2] for row in alike]
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
