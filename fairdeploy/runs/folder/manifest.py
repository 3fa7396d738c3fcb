"""``manifest.json``: size and SHA-256 of every file of a folder, and of the list itself.

It tells of damage and of mix-ups, on disk or on the way to a device. It is not signed: whoever
changes files on purpose can change the manifest too, so note its
digest elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fairdeploy.errors import OutputError
from fairdeploy.files import open_regular, read_regular_text, write_whole

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Listed:
    """One file as the manifest knows it; ``path`` is relative, with ``/``."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One file that is not as the manifest says."""

    path: str
    problem: str


def write_manifest(folder: Path) -> str:
    """List all files of ``folder``; returns the digest of the list.

    Raises:
        OutputError: The disk refused.
    """
    files = [_listed(folder, path) for path in _files_of(folder)]
    digest = _digest(files)
    document = {
        "schema_version": SCHEMA_VERSION,
        "digest": digest,
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for file in files
        ],
    }
    write_whole(folder / MANIFEST_FILE, json.dumps(document, indent=1) + "\n")
    return digest


def read_manifest(folder: Path) -> tuple[Listed, ...]:
    """The list, if it is whole.

    Raises:
        OutputError: There is no manifest, or it is damaged.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise OutputError(f"no folder '{folder}'; give one that fairdeploy shrink wrote")
    try:
        document = json.loads(read_regular_text(path))
    except FileNotFoundError as error:
        raise OutputError(
            f"'{folder}' has no {MANIFEST_FILE}, so nothing can be verified; "
            "fairdeploy shrink and export write one"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"'{path}' is damaged: {_first_line(error)}") from error
    return _parsed(document, path)


def discrepancies(folder: Path, files: tuple[Listed, ...]) -> Iterator[Discrepancy]:
    """Everything that is not as listed: changed, swapped, missing and unlisted files."""
    names_by_hash = {file.sha256: file.path for file in files}
    for file in files:
        path = folder / file.path
        if not os.path.lexists(path):
            yield Discrepancy(file.path, "is missing")
            continue
        if not is_own_file(folder, path):
            yield Discrepancy(file.path, "is a link, pipe, device or folder instead of a file")
            continue
        found = _listed(folder, path)
        if found.sha256 != file.sha256:
            yield Discrepancy(file.path, _difference(file, found, names_by_hash))
    listed = {file.path for file in files}
    for path in _files_of(folder):
        name = path.relative_to(folder).as_posix()
        if name not in listed:
            yield Discrepancy(name, "is not in the manifest")


def _difference(listed: Listed, found: Listed, names_by_hash: dict[str, str]) -> str:
    if found.sha256 in names_by_hash:
        return f"holds what belongs into '{names_by_hash[found.sha256]}'"
    if found.size_bytes != listed.size_bytes:
        return f"has {found.size_bytes} bytes instead of {listed.size_bytes}"
    return f"is changed: SHA-256 {found.sha256[:16]}… instead of {listed.sha256[:16]}…"


def _files_of(folder: Path) -> list[Path]:
    """All but the manifest itself; pipes, devices and links are files too, folders are not."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path for path in found if path != folder / MANIFEST_FILE)


def is_own_file(folder: Path, path: Path) -> bool:
    """Whether a path in a folder is a regular file that lies there, and no link to elsewhere."""
    is_file = path.is_file() and not path.is_symlink()
    return is_file and path.resolve().is_relative_to(folder.resolve())


def _listed(folder: Path, path: Path) -> Listed:
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Listed(path.relative_to(folder).as_posix(), path.stat().st_size, sha256)
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror or error}") from error


def _digest(files: list[Listed]) -> str:
    lines = "".join(f"{file.sha256} {file.size_bytes} {file.path}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _parsed(document: Any, path: Path) -> tuple[Listed, ...]:
    try:
        if document["schema_version"] != SCHEMA_VERSION:
            raise OutputError(
                f"'{path}' has version {document['schema_version']!r}; "
                f"this fairdeploy reads version {SCHEMA_VERSION}"
            )
        files = [
            Listed(str(row["path"]), int(row["size_bytes"]), str(row["sha256"]))
            for row in document["files"]
        ]
        outside = next((row.path for row in files if not _is_inside(row.path)), None)
        if outside is not None:
            raise ValueError(f"{outside!r} does not lie in the folder")
        is_whole = _digest(files) == str(document["digest"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise OutputError(f"'{path}' is damaged: {_first_line(error)}") from error
    if not is_whole:
        raise OutputError(f"'{path}' is damaged: its list does not match its own digest")
    return tuple(files)


def _is_inside(path: str) -> bool:
    """Whether it is relative, without a way up."""
    pure = PurePosixPath(path)
    return path.isprintable() and not pure.is_absolute() and ".." not in pure.parts


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
