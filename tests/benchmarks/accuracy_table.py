"""The rows of the accuracy benchmark as lines and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tests.benchmarks.accuracy_case import CLOSE_MACS

Row = dict[str, Any]
_KEY = (
    "network", "percent", "seed", "by", "epochs", "num_calibration", "num_scoring",
    "num_projections", "round_to", "num_training", "learning_rates",
)  # fmt: skip
_SETTINGS = _KEY[5:]


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row is of."""
    return tuple(row[part] for part in _KEY)


def merged(paths: Sequence[Path]) -> list[Row]:
    """The rows of several files; of equal ones the last."""
    rows: dict[tuple[Any, ...], Row] = {}
    for path in paths:
        rows |= {key_of(row): row for row in json.loads(path.read_text())}
    return list(rows.values())


def shown(row: Row) -> str:
    """A row as a line."""
    found = row.get("error") or f"{row['accuracy']:.2f} % at {row['macs']:.1%} of the MACs"
    return (
        f"{row['network']} {row['percent']} % seed {row['seed']} {_line(row)}: {found} "
        f"(original {row['original']:.2f} %), {row['seconds']:.0f} s"
    )


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each network: a line for each pruner, a column for each share of the MACs.

    Mean and spread over seeds; ``*``: the MACs of some are further off than one per cent.
    """
    for network in dict.fromkeys(row["network"] for row in rows):
        yield from _table(network, [row for row in rows if row["network"] == network])
        yield ""


def _table(network: str, rows: Sequence[Row]) -> Iterator[str]:
    percents = sorted({row["percent"] for row in rows}, reverse=True)
    varied = [name for name in _SETTINGS if len({row[name] for row in rows if row[name]}) > 1]
    seeds = sorted({row["seed"] for row in rows})
    originals = {row["original"] for row in rows}
    heads = [f"{percent} % of the MACs" for percent in percents]
    yield f"| {network}, {fmean(originals):.1f} %, seeds {seeds} | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(percents)
    lines = dict.fromkeys(_line(row, varied) for row in rows)
    for line in lines:
        own = [row for row in rows if _line(row, varied) == line]
        cells = [_cell(row for row in own if row["percent"] == percent) for percent in percents]
        yield f"| {line} | " + " | ".join(cells) + " |"


def _line(row: Row, varied: Sequence[str] = ()) -> str:
    """Who made it, and with which of the settings that vary."""
    epochs = f" +{row['epochs']} epochs" if row["epochs"] else ""
    settings = "".join(f", {name} {row[name]}" for name in varied)
    return f"{row['by']}{epochs}{settings}"


def _cell(rows: Iterable[Row]) -> str:
    chosen = list(rows)
    good = [row for row in chosen if "error" not in row]
    if not good:
        return "fails" if chosen else ""
    values = [row["accuracy"] for row in good]
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    is_off = any(abs(row["macs"] - row["percent"] / 100) > CLOSE_MACS for row in good)
    failed = f", {len(chosen) - len(good)} fail" if len(good) < len(chosen) else ""
    return f"{fmean(values):.1f}{spread}{'*' if is_off else ''}{failed}"
