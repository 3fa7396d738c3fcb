"""How far outputs are apart, each column on its own scale.

A column is a class, a coordinate, a channel: what is one quantity for all images and places. One
error over all of them hides a small one behind a large one, such as a class score in [0, 1] behind
coordinates of hundreds of pixels. A column's scale is its own spread, but no less than a share of
the largest spread among columns of its kind: what hardly moves beside its like matters as little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

MAP_IMAGES = 64
"""Maps are large, and one says as much as many scores."""
_MATRIX = 2
_KIND_GAP = 16.0
"""Spreads that lie further apart, with none between, are of other kinds."""
_WIDE = 16.0
"""Of 256 levels for the whole output, fewer than 16 are left for such a column."""
_MIN_SHARE = 0.02
_CONSTANT = 0.01
_SHRUNK = 0.5
_STEADY = 1e-6
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class ColumnVerdict:
    """The column that is furthest off, over all outputs, and what is broken."""

    error: float
    """Root mean square of the difference, as a share of the column's own scale."""
    column: str
    """Which one it is."""
    problems: tuple[str, ...] = ()
    """Columns that became constant, or whose range shrank."""


def compare_columns(
    expected: Sequence[Array], got: Sequence[Array], names: Sequence[str] = ()
) -> ColumnVerdict:
    """Every column of every output; what has no numbers to compare, as other shapes, is infinite.

    Args:
        expected: Outputs, images first.
        got: The same of the file.
        names: Of the outputs, for the words.
    """
    if len(expected) != len(got) or not expected:
        return ColumnVerdict(float("inf"), "the number of outputs")
    verdicts = [
        _of_output(ours, theirs, _title(place, len(expected), names))
        for place, (ours, theirs) in enumerate(zip(expected, got, strict=True))
    ]
    worst = max(verdicts, key=lambda verdict: verdict.error)
    problems = tuple(problem for verdict in verdicts for problem in verdict.problems)
    return ColumnVerdict(worst.error, worst.column, problems)


def has_wide_scales(output: Array) -> bool:
    """Whether columns of such an output would lose themselves in 256 levels for all."""
    values = _columns(output)
    if not np.isfinite(values).all() or values.shape[1] < _MATRIX or len(values) < _MATRIX:
        return False
    ranges = np.ptp(values, axis=1)
    moves = ranges > np.maximum(_STEADY * np.abs(values).max(axis=1), _TINY)
    whole = max(float(values.max()), 0.0) - min(float(values.min()), 0.0)
    return bool((moves & (whole > _WIDE * ranges)).any())


def _title(place: int, count: int, names: Sequence[str]) -> str:
    if count == 1:
        return ""
    return f" of output '{names[place]}'" if names else f" of output {place + 1}"


def _of_output(expected: Array, got: Array, title: str) -> ColumnVerdict:
    if expected.shape != got.shape:
        return ColumnVerdict(float("inf"), f"the shape{title}")
    if expected.size == 0 or not np.issubdtype(expected.dtype, np.floating):
        return ColumnVerdict(0.0, f"column 0{title}")
    if expected.ndim > _MATRIX:
        expected, got = expected[:MAP_IMAGES], got[:MAP_IMAGES]
    ours, theirs = _columns(expected), _columns(got)
    usable = np.isfinite(ours)
    if not np.array_equal(usable, np.isfinite(theirs)):
        return ColumnVerdict(float("inf"), f"what is no number{title}")
    ours, theirs = np.where(usable, ours, 0.0), np.where(usable, theirs, 0.0)
    errors = np.sqrt(((theirs - ours) ** 2).mean(axis=1)) / _scales(ours)
    worst = int(errors.argmax())
    column = f"column {worst}{title}" if len(ours) > 1 else f"the value{title}"
    return ColumnVerdict(float(errors[worst]), column, _broken_ranges(ours, theirs, title))


def _columns(output: Array) -> Floats:
    """[columns, what each holds]."""
    if output.ndim < _MATRIX:
        return output.astype(np.float64).reshape(1, -1)
    moved: Floats = np.moveaxis(output, _column_axis(output.shape), 0).astype(np.float64)
    return moved.reshape(len(moved), -1)


def _column_axis(shape: tuple[int, ...]) -> int:
    """Channels come first or last: of [N, A, B] the shorter one, of maps what is not the square."""
    if len(shape) == _MATRIX:
        return 1
    if len(shape) == _MATRIX + 1:
        return 1 if shape[1] <= shape[2] else 2
    return len(shape) - 1 if shape[-3] == shape[-2] != shape[-1] else 1


def _scales(columns: Floats) -> Floats:
    spreads = columns.std(axis=1)
    largest = np.abs(columns).max(axis=1)
    moves = spreads > _STEADY * largest
    scales = np.where(moves, spreads, largest)
    floors = np.where(scales > 0, _least_share(columns) * _of_kind(scales), scales.max(initial=0))
    found: Floats = np.maximum(scales, np.maximum(floors, _least(scales)))
    return found


def _least(sizes: Floats) -> float:
    """Below a millionth of the largest there is rounding only."""
    return max(_STEADY * float(sizes.max(initial=0)), _TINY)


def _least_share(columns: Floats) -> float:
    """Few values tell little of a spread."""
    return max(_MIN_SHARE, 1 / math.sqrt(columns.shape[1]))


def _of_kind(sizes: Floats) -> Floats:
    """For each column, the largest size among those of its kind."""
    order = np.argsort(sizes)
    ordered = np.maximum(sizes[order], _TINY)
    starts = np.concatenate([[True], ordered[1:] > _KIND_GAP * ordered[:-1]])
    kind = np.cumsum(starts) - 1
    largest = np.maximum.reduceat(ordered, np.flatnonzero(starts))
    found = np.empty_like(ordered)
    found[order] = largest[kind]
    return found


def _broken_ranges(ours: Floats, theirs: Floats, title: str) -> tuple[str, ...]:
    """The first column that became constant, and the first whose range shrank, in words."""
    ranges, left = np.ptp(ours, axis=1), np.ptp(theirs, axis=1)
    moves = ranges > np.maximum(_STEADY * np.abs(ours).max(axis=1), _least(ranges))
    counts = moves & (ranges >= _least_share(ours) * _of_kind(ranges))
    constant = counts & (left <= _CONSTANT * ranges)
    shrunk = counts & ~constant & (left < _SHRUNK * ranges)
    found = []
    for broken, what in ((constant, "became constant"), (shrunk, "lost half of the range")):
        places = np.flatnonzero(broken)
        if not len(places):
            continue
        which = f"column {places[0]}{title}"
        if len(places) > 1:
            which = f"{len(places)} of {len(ours)} columns{title}, as column {places[0]},"
        levels = len(np.unique(theirs[places[0]])), len(np.unique(ours[places[0]]))
        found.append(f"{which} {what} ({levels[0]} distinct values instead of {levels[1]})")
    return tuple(found)
