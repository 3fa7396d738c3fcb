"""Reads TOML tables with a fixed set of keys: unknown keys and wrong types are errors."""

from __future__ import annotations

import difflib
import math
import reprlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fairdeploy.errors import ProjectFileError, UsageError
from fairdeploy.files import read_regular_text
from fairdeploy.records.method import choice_of

_Value = TypeVar("_Value")
_Choice = TypeVar("_Choice", bound=str)
_Reads = TypeVar("_Reads", bound="Reader")

LARGEST = 2**63 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80

_MAX_CHARACTERS = 2**16
_MAX_DOTS = 1_000

Reader = Callable[[object], Any]
"""Turns a TOML value into the record's value, or raises ValueError with what would be right."""


Schema = dict[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LIST: Schema = {"type": "array", "minItems": 1}
_SEVERAL: Schema = {"anyOf": [{"type": "string"}, {**_LIST, "items": {"type": "string"}}]}
_TYPES = {"boolean": bool, "integer": int, "number": float}


@dataclass(frozen=True, slots=True)
class Form:
    """How values of a kind are written, besides what its reader takes from TOML."""

    schema: Schema
    typed: Any
    """What a command line has for it: ``int``, ``str``, ``list[str]`` where it may be repeated."""
    parse: Callable[[str, Any], Any]
    """From the option's name and what was typed to the value; raises UsageError."""


_FORMS: dict[Reader, Form] = {}


def described(
    reader: _Reads, typed: Any = None, parse: Callable[[str, Any], Any] | None = None, **schema: Any
) -> _Reads:
    """The same reader, with what JSON Schema can say of its values and how they are typed."""
    kind = typed or _TYPES.get(schema.get("type", ""), str)
    _FORMS[reader] = Form(schema, kind, parse or (lambda _, value: value))
    return reader


def form_of(reader: Reader) -> Form:
    """How values of this kind are written."""
    return _FORMS[reader]


def table_schema(title: str, keys: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    """JSON Schema of a table with these keys."""
    return {
        "$schema": _DIALECT,
        "title": title,
        "type": "object",
        "properties": dict(keys),
        "required": list(required),
        "additionalProperties": False,
    }


def read_toml_table(text: str, path: Path | str, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The checked values of the keys that are there.

    Raises:
        ProjectFileError: Not TOML, a key that ``readers`` lacks, or a value of the wrong kind.
    """
    # The reader takes a time that grows with the square of a dotted key's parts.
    if len(text) > _MAX_CHARACTERS or any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ProjectFileError(
            f"'{path}' has {len(text):,} characters or a key of many parts; write no more than "
            f"{_MAX_CHARACTERS:,}, with {_MAX_DOTS:,} dots a line"
        )
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise ProjectFileError(f"'{path}' is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ProjectFileError(
            f"'{path}' is nested too deeply; its values are texts, numbers, lists and short tables"
        ) from error
    return read_values(table, path, readers)


def read_values(
    table: Mapping[str, object], path: Path | str, readers: Mapping[str, Reader]
) -> dict[str, Any]:
    """The checked values of a table that lies in ``path``.

    Raises:
        ProjectFileError: A key that ``readers`` lacks, or a value of the wrong kind.
    """
    for key in table:
        if key not in readers:
            raise ProjectFileError(_unknown_key(key, path, sorted(readers)))
    return {key: _read_value(key, value, path, readers[key]) for key, value in table.items()}


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        ProjectFileError: The file cannot be read or is not UTF-8.
    """
    try:
        return read_regular_text(path)
    except UnicodeDecodeError as error:
        raise ProjectFileError(f"'{path}' is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise ProjectFileError(f"'{path}' cannot be read: {error.strerror}") from error


def _unknown_key(key: str, path: Path | str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"'{path}' has the unknown key '{key}'; {hint}known keys are {', '.join(known)}"


def _read_value(key: str, value: object, path: Path | str, reader: Reader) -> object:
    try:
        return reader(value)
    except ValueError as error:
        raise ProjectFileError(
            f"'{key}' in '{path}' is {_SHORT.repr(value)}; give {error}"
        ) from error


def text(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not _is_line(value) or not value.strip():
        raise ValueError("a text in quotes, on one line")
    return value


def _is_line(value: object) -> bool:
    """Whether it is a text without line breaks and other control characters."""
    return isinstance(value, str) and value.isprintable()


def truth(value: object) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list) or not all(_is_line(item) for item in value):
        raise ValueError("a list of texts, each on one line")
    return tuple(value)


def text_or_texts(value: object) -> tuple[str, ...]:
    """One string, or a list of strings with at least one."""
    items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not items or not all(_is_line(item) and item.strip() for item in items):
        raise ValueError("a text in quotes, or a list of them")
    return items


def whole_number(minimum: int, maximum: int = LARGEST) -> Callable[[object], int]:
    """Reader of integers from ``minimum`` up, as far as 64 bits or ``maximum`` hold them."""
    to = f" to {maximum}" if maximum < LARGEST else ""

    def read(value: object) -> int:
        is_flag = isinstance(value, bool)
        if not isinstance(value, int) or is_flag or not minimum <= value <= maximum:
            raise ValueError(f"a whole number from {minimum}{to}")
        return value

    return described(read, type="integer", minimum=minimum, maximum=maximum)


def whole_numbers(minimum: int) -> Callable[[object], tuple[int, ...]]:
    """Reader of lists of integers from ``minimum`` up, with at least one."""
    read_one = whole_number(minimum)

    def read(value: object) -> tuple[int, ...]:
        try:
            items = tuple(read_one(item) for item in value) if isinstance(value, list) else ()
        except ValueError:
            items = ()
        if not items:
            raise ValueError(f"a list of whole numbers from {minimum}")
        return items

    return described(read, **_LIST, items=form_of(read_one).schema)


def positive_number(value: object) -> float:
    """A finite number above 0."""
    number = _number(value)
    if number is None or number <= 0:
        raise ValueError("a number above 0")
    return number


def not_negative_number(value: object) -> float:
    """A finite number from 0 up."""
    number = _number(value)
    if number is None or number < 0:
        raise ValueError("a number from 0")
    return number


def share(value: object) -> float:
    """A number from 0 to 1."""
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1")
    return number


def by_glob(
    reader: Callable[[object], _Value], example: str, parse: Callable[[str, Any], Any]
) -> Callable[[object], tuple[tuple[str, _Value], ...]]:
    """Reader of one value for every module, or of a table with one value for each glob."""

    def read(value: object) -> tuple[tuple[str, _Value], ...]:
        table = value if isinstance(value, dict) else {"*": value}
        try:
            return tuple((glob, reader(item)) for glob, item in table.items())
        except ValueError as error:
            raise ValueError(f"{error}, or a table of globs with such values: {example}") from error

    one = form_of(reader).schema
    any_of = [one, {"type": "object", "additionalProperties": one}]
    return described(read, list[str], parse, anyOf=any_of)


def one_of(choices: tuple[_Choice, ...], what: str | None = None) -> Callable[[object], _Choice]:
    """Reader of one of these words; ``what`` they are called where the option's name won't do."""

    def read(value: object) -> _Choice:
        option = choice_of(value, choices)
        if option is None:
            raise ValueError(f"one of {', '.join(choices)}")
        return option

    def parse(flag: str, text: str) -> _Choice:
        option = choice_of(text, choices)
        if option is None:
            raise UsageError(f"no {what or flag} '{text}'; use one of {', '.join(choices)}")
        return option

    return described(read, parse=parse, enum=list(choices))


def numbers(value: object) -> tuple[float, ...]:
    """One number, or a list of numbers, one per channel."""
    items = [_number(item) for item in (value if isinstance(value, list) else [value])]
    found = tuple(item for item in items if item is not None)
    if not found or len(found) != len(items):
        raise ValueError("a list of numbers, one per channel")
    return found


def _number(value: object) -> float | None:
    """A finite number as float; TOML knows booleans, nan and inf too."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


described(text, type="string", minLength=1)
described(truth, type="boolean")
described(texts, type="array", items={"type": "string"})
described(text_or_texts, list[str], lambda _, words: tuple(words), **_SEVERAL)
described(positive_number, type="number", exclusiveMinimum=0)
described(not_negative_number, type="number", minimum=0)
described(share, type="number", minimum=0, maximum=1)
described(numbers, anyOf=[{"type": "number"}, {**_LIST, "items": {"type": "number"}}])
