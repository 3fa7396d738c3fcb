"""``fairdeploy.toml`` beside the model: defaults for the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from fairdeploy.errors import ProjectFileError, UsageError
from fairdeploy.records.architecture import is_factory_spec, parse_architecture
from fairdeploy.settings.option import keys_of
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.toml import (
    Schema,
    read_text,
    read_toml_table,
    read_values,
    table_schema,
)

PROJECT_FILE_NAME = "fairdeploy.toml"
_KEYS = keys_of(ShrinkOptions)
_READERS = {key: option.reads for key, option in _KEYS.items()}
_Keys: Any = make_dataclass("_Keys", [(key, Any, None) for key in _KEYS], frozen=True)


class ProjectFile(_Keys):  # type: ignore[misc]
    """One field per key of the options, None where the file does not have it."""


def load_project_file(folder: Path) -> ProjectFile:
    """Read ``fairdeploy.toml`` in ``folder``; without one every field is None.

    Raises:
        ProjectFileError: Not TOML, an unknown key, or a value of the wrong kind.
    """
    path = folder / PROJECT_FILE_NAME
    if not path.exists():
        return ProjectFile()
    project = ProjectFile(**read_toml_table(read_text(path), path, _READERS))
    return replace(
        project,
        arch=_located_factory(project.arch, folder),
        task=_located_factory(project.task, folder),
        data=_located(project.data, folder),
        output=_located(project.output, folder),
        target=_located_profile(project.target, folder),
    )


def settings_from_keywords(keywords: Mapping[str, object]) -> ProjectFile:
    """What a call from Python says: the keys of ``fairdeploy.toml`` as keywords, None for absent.

    Raises:
        UsageError: An unknown name, or a value of the wrong kind.
    """
    given = {key: _as_in_toml(value) for key, value in keywords.items() if value is not None}
    try:
        return ProjectFile(**read_values(given, "the call", _READERS))
    except ProjectFileError as error:
        raise UsageError(str(error)) from error


def _as_in_toml(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def overruled(project: ProjectFile, said: ProjectFile | None) -> ProjectFile:
    """``project`` with what a call from Python says in its place."""
    given = {} if said is None else {f.name: getattr(said, f.name) for f in fields(said)}
    return replace(project, **{name: value for name, value in given.items() if value is not None})


def refuse_foreign_code(path: Path, used: Mapping[str, str | None]) -> None:
    """Refuse values that name code, where the file that gives them lies outside the working folder.

    Who works in a folder runs what is in it; a folder that merely holds a model is a stranger's.

    Args:
        path: The file; a link counts as lying where it points to.
        used: ``arch``, ``data`` and ``task``, as far as they come from the file.

    Raises:
        ProjectFileError: It names code.
    """
    named = {key: text for key, text in used.items() if text is not None and _is_code(key, text)}
    if named and not os.path.samefile(path.resolve().parent, Path.cwd()):
        key, text = next(iter(named.items()))
        raise ProjectFileError(
            f"'{path}' is not in the current folder and names code to run: {key} = '{text}'; look "
            f"at it, and add --trust-project if you trust its author, or give --{key} yourself"
        )


def _is_code(key: str, text: str) -> bool:
    """Whether the value is a factory, or hands a library's builder more than plain values.

    Texts and tables among a builder's options name files and addresses that it would load from.
    """
    if key != "arch":
        return is_factory_spec(text)
    architecture = parse_architecture(text)
    is_plain = all(_is_plain(value) for value in architecture.options.values())
    return architecture.family == "factory" or not is_plain


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float)


def project_schema() -> Schema:
    """JSON Schema of ``fairdeploy.toml``."""
    return table_schema(PROJECT_FILE_NAME, {key: option.schema() for key, option in _KEYS.items()})


def _located(value: str | None, folder: Path) -> str | None:
    """A path made absolute against ``folder``; ``package.module:factory`` stays as it is."""
    if value is None:
        return None
    if is_factory_spec(value):
        return _located_factory(value, folder)
    return str(folder.resolve() / Path(value).expanduser())


def _located_factory(value: str | None, folder: Path) -> str | None:
    """``file.py:factory`` with the file made absolute; anything else stays as it is."""
    if value is None:
        return None
    module, colon, rest = value.partition(".py:")
    if not colon:
        return value
    return f"{folder.resolve() / Path(module).expanduser()}.py:{rest}"


def _located_profile(value: str | None, folder: Path) -> str | None:
    return _located(value, folder) if value is not None and value.endswith(".toml") else value
