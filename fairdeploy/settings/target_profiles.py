"""Target profiles: the device and runtime that counts, as TOML."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fairdeploy.errors import ProjectFileError
from fairdeploy.records import TargetProfile
from fairdeploy.settings.toml import (
    Reader,
    Schema,
    described,
    form_of,
    not_negative_number,
    one_of,
    positive_number,
    read_text,
    read_toml_table,
    table_schema,
    text,
    texts,
    whole_number,
    whole_numbers,
)

_SUFFIX = ".toml"
AUTO = "auto"
_PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def load_profile(name_or_path: str) -> TargetProfile:
    """The profile of that name, or in that file.

    Raises:
        ProjectFileError: No such profile, an unknown key, or a value of the wrong kind.
    """
    if name_or_path.endswith(_SUFFIX):
        path = Path(name_or_path)
        if not path.is_file():
            raise ProjectFileError(f"no target profile file '{path}'; {_choices()}")
        return _parse(read_text(path), str(path), path.stem)
    shipped = _shipped_profiles()
    if name_or_path not in shipped:
        raise ProjectFileError(f"no target profile '{name_or_path}'; {_choices()}")
    return _parse_shipped(shipped[name_or_path])


def profile_toml(profile: TargetProfile) -> str:
    """The text of a profile file that loads as ``profile``, but for its name."""
    values = {key: getattr(profile, key) for key in (*_READERS, *_OPTIONAL_READERS)}
    given = {key: value for key, value in values.items() if value not in (None, ())}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())


def list_profiles() -> tuple[TargetProfile, ...]:
    """All profiles that come with fairdeploy, sorted by name."""
    return tuple(_parse_shipped(entry) for _, entry in sorted(_shipped_profiles().items()))


def profile_schema() -> Schema:
    """JSON Schema of a target profile."""
    return table_schema(
        "target profile",
        {key: form_of(reader).schema for key, reader in (_READERS | _OPTIONAL_READERS).items()},
        tuple(_READERS),
    )


def _channel_multiple(value: object) -> int | str:
    if value == AUTO:
        return AUTO
    try:
        return whole_number(1)(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "{AUTO}"') from error


def _image_shape(value: object) -> tuple[int, ...]:
    shape = whole_numbers(1)(value)
    if len(shape) != 3:
        raise ValueError("three whole numbers: [channels, height, width]")
    return shape


described(_channel_multiple, anyOf=[{"type": "integer", "minimum": 1}, {"const": AUTO}])
described(
    _image_shape, type="array", items={"type": "integer", "minimum": 1}, minItems=3, maxItems=3
)

_READERS: dict[str, Reader] = {
    "description": text,
    "runtime": text,
    "providers": texts,
    "precision": one_of(_PRECISIONS),
    "batch": whole_number(1),
    "threads": whole_number(0),
    "channel_multiple": _channel_multiple,
    "warmup_seconds": not_negative_number,
    "min_pairs": whole_number(20),
    "max_seconds": positive_number,
    "ratio_interval": positive_number,
    "parity_limit": positive_number,
}
_OPTIONAL_READERS: dict[str, Reader] = {
    "input_size": _image_shape,
    "affinity": whole_numbers(0),
    "idle_gap_ms": positive_number,
    "power": text,
    "machine": text,
}


def _parse(content: str, source: str, name: str) -> TargetProfile:
    values = read_toml_table(content, source, _READERS | _OPTIONAL_READERS)
    missing = [key for key in _READERS if key not in values]
    if missing:
        raise ProjectFileError(f"'{source}' lacks {', '.join(missing)}; see profiles/cpu.toml")
    return TargetProfile(name=name, **values)


def _parse_shipped(entry: Traversable) -> TargetProfile:
    return _parse(entry.read_text(encoding="utf-8"), entry.name, entry.name[: -len(_SUFFIX)])


def _choices() -> str:
    return f"use one of {', '.join(sorted(_shipped_profiles()))} or a path ending in {_SUFFIX}"


def _shipped_profiles() -> dict[str, Traversable]:
    folder = _profiles_folder()
    found = [entry for entry in folder.iterdir() if entry.name.endswith(_SUFFIX)]
    return {entry.name[: -len(_SUFFIX)]: entry for entry in found}


def _profiles_folder() -> Traversable:
    """The folder in the installed package, else the checkout's, which holds a pyproject.toml."""
    installed = files("fairdeploy") / "profiles"
    if installed.is_dir():
        return installed
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "profiles").is_dir():
        return checkout / "profiles"
    raise ProjectFileError("fairdeploy was installed without its target profiles; install it again")
