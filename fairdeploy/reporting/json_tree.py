"""What ``report.json`` and ``sweep.json`` share: plain JSON, and how a run is described."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fairdeploy.records import TargetProfile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def heading_rows(command: Sequence[str], seed: int) -> dict[str, Any]:
    """What was typed, and when."""
    return {
        "command": shlex.join(command),
        "seed": seed,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def circumstance_rows(
    profile: TargetProfile,
    warnings: Sequence[str],
    stage_seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """On what it ran, what the user was warned of, and how long the stages took."""
    return {
        "target": asdict(profile),
        "warnings": list(dict.fromkeys(warnings)),
        "stage_seconds": dict(stage_seconds),
        "environment": dict(environment),
    }


@overload
def row_of(record: DataclassInstance, *properties: str) -> dict[str, Any]: ...
@overload
def row_of(record: DataclassInstance | None, *properties: str) -> dict[str, Any] | None: ...
def row_of(record: DataclassInstance | None, *properties: str) -> dict[str, Any] | None:
    """A record's fields, and then these of its properties; None of None."""
    if record is None:
        return None
    return asdict(record) | {name: getattr(record, name) for name in properties}


def json_tree(document: Mapping[str, Any]) -> dict[str, Any]:
    """Dictionaries, lists, strings, finite numbers, booleans and None."""
    safe = json_safe(document)
    assert isinstance(safe, dict)
    return safe


def json_safe(value: object) -> object:
    """The same tree in plain JSON types: arrays as lists, NaN and infinities as None."""
    if isinstance(value, np.generic | np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    # a file's name may hold bytes that are no text
    return str(value).encode(errors="backslashreplace").decode()
