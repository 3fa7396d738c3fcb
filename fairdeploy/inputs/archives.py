"""Zip archives of strangers: checkpoints, exported programs and arrays, looked at before unpacking.

A zip file of some kilobytes can unpack to any size, hold one name twice (readers differ in which
they take), or use methods whose readers unpack without a limit. What torch and numpy write has none
of that.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fairdeploy.errors import FairdeployError
from fairdeploy.files import open_regular
from fairdeploy.inputs.names import shown

_MAX_MEMBERS = 100_000
# Deflated plain images come to 200 times their size at most, weights to next to nothing; the rest
# is for small files.
_MAX_GROWTH = 50
_FREE_BYTES = 2**28
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1

# What zipfile raises on files that break off or hold nonsense.
ZIP_ERRORS = (
    zipfile.BadZipFile, EOFError, ValueError, IndexError, KeyError, OSError, NotImplementedError,
    RuntimeError, OverflowError, MemoryError,
)  # fmt: skip


@contextmanager
def opened_archive(path: Path, error: type[FairdeployError]) -> Iterator[zipfile.ZipFile]:
    """The archive at ``path``, once it is known that unpacking it is no trap.

    Raises:
        FairdeployError: Of type ``error``: not a regular file, or a trap.
        Exception: One of ``ZIP_ERRORS``, if it is damaged.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        problem = trap_in(archive, path.stat().st_size)
        if problem is not None:
            raise error(f"'{path}' is refused: {problem}; save the file again")
        forgive_absent_checksums(archive)
        yield archive


def forgive_absent_checksums(archive: zipfile.ZipFile) -> None:
    """Change ``archive`` so that it reads what torch wrote without checksums: each of them is 0."""
    if not any(member.CRC for member in archive.infolist()):
        for member in archive.infolist():
            del member.CRC  # zipfile compares those that are there


def is_archive(file: IO[bytes]) -> bool:
    """Whether a file is a zip archive; it is read from its beginning afterwards."""
    found = zipfile.is_zipfile(file)
    file.seek(0)
    return found


def trap_in(archive: zipfile.ZipFile, size_bytes: int) -> str | None:
    """Why an archive must not be unpacked, or None."""
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        return f"it holds {len(members)} files, the most is {_MAX_MEMBERS}"
    names = {member.filename.lower() for member in members}
    if len(names) < len(members):
        return "it holds two files of one name"
    odd = [m for m in members if m.compress_type not in _METHODS or m.flag_bits & _ENCRYPTED]
    if odd:
        return f"its file '{shown(odd[0].filename)}' is encrypted or packed by an unusual method"
    unpacked = sum(member.file_size for member in members)
    if unpacked > _FREE_BYTES + _MAX_GROWTH * size_bytes:
        return f"its {size_bytes:,} bytes unpack to {unpacked:,}"
    return None
