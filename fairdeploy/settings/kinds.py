"""Kinds of values that are typed otherwise than they stand in ``fairdeploy.toml``."""

from __future__ import annotations

from pathlib import Path

from fairdeploy.errors import UsageError
from fairdeploy.records.task_names import parse_task
from fairdeploy.settings.toml import (
    Schema,
    by_glob,
    described,
    form_of,
    numbers,
    positive_number,
    share,
    text,
    texts,
    whole_number,
)
from fairdeploy.settings.values import (
    InputShape,
    parse_counts,
    parse_drop,
    parse_input_shape,
    parse_numbers,
    parse_shares,
    parse_words,
)

_LARGEST_RATE = 1.0


def path(value: object) -> str:
    """The path of a file or folder."""
    return text(value)


def input_size(value: object) -> InputShape:
    """One number, or three: [channels, height, width]."""
    items = value if isinstance(value, list) else [value]
    sizes = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    if len(sizes) != len(items) or len(sizes) not in (1, 3) or min(sizes) < 1:
        raise ValueError("one whole number, or three: [channels, height, width]")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1], sizes[2])


def task(value: object) -> str:
    """A task's name, or where its code is."""
    try:
        return parse_task(text(value))
    except UsageError as error:
        raise ValueError(str(error).partition("; use ")[2]) from error


def positive_numbers(value: object) -> tuple[float, ...]:
    """As ``numbers``, all above 0."""
    return tuple(positive_number(item) for item in numbers(value))


def drop(value: object) -> float:
    """A share of all images, as a number or as a text: 0.01 or "1%"."""
    try:
        found = parse_drop(str(value)) if isinstance(value, str | float | int) else None
    except UsageError:
        found = None
    if found is None or isinstance(value, bool):
        raise ValueError('a share of all images below 100%, such as "1%" or 0.01')
    return found


def rate(value: object) -> float:
    """A learning rate."""
    number = positive_number(value)
    if number > _LARGEST_RATE:
        raise ValueError("a number above 0 and at most 1")
    return number


_SIZE = {"type": "integer", "minimum": 1}
_ABOVE_0: Schema = {"type": "number", "exclusiveMinimum": 0}
_SIZES = tuple({"type": "array", "items": _SIZE, "minItems": n, "maxItems": n} for n in (1, 3))
described(input_size, None, parse_input_shape, anyOf=[_SIZE, *_SIZES])
described(
    positive_numbers,
    None,
    parse_numbers,
    anyOf=[_ABOVE_0, {"type": "array", "items": _ABOVE_0, "minItems": 1}],
)
_SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
described(drop, None, lambda _, typed: parse_drop(typed), anyOf=[{"type": "string"}, _SHARE])
described(task, None, lambda _, typed: parse_task(typed), type="string")
described(rate, **_ABOVE_0, maximum=_LARGEST_RATE)
described(path, Path, lambda _, typed: typed, type="string", minLength=1)
for _reader, _parse in ((texts, parse_words), (numbers, parse_numbers)):
    described(_reader, None, _parse, **form_of(_reader).schema)
shares_by_glob = by_glob(share, '"layer4.*" = 0.3', parse_shares)
counts_by_glob = by_glob(whole_number(1), '"layer4.*" = 16', parse_counts)
