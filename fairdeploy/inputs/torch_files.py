"""Reads what ``torch.save`` wrote, in its zip format and the one before, by ``PickleMachine``.

The zip format holds one pickle, ``data.pkl``, and a file for each storage; the old one holds four
pickles (a magic number, a version, facts about the machine, the object), a list of keys, and then
the storages one after the other, each after its length.
"""

from __future__ import annotations

import io
import sys
import zipfile
from typing import IO, Any

import torch

from fairdeploy.errors import ModelError
from fairdeploy.inputs.archives import forgive_absent_checksums, trap_in
from fairdeploy.inputs.pickle_machine import PickleMachine
from fairdeploy.inputs.pickled_names import Named, storage_dtype
from fairdeploy.inputs.pickled_values import Refused, Stored

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_PROGRAM_BYTES = 2**26
_LENGTH_BYTES = 8


class NoCheckpoint(ValueError):
    """Neither of torch's formats."""


def read_zip(file: IO[bytes], size_bytes: int) -> object:
    """What a checkpoint in the zip format holds.

    Raises:
        Refused: The archive is a trap, or its pickle asks for something that is not given.
        Exception: One of ``ZIP_ERRORS``, if it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        problem = trap_in(archive, size_bytes)
        if problem is not None:
            raise Refused(f"cannot be unpacked: {problem}")
        forgive_absent_checksums(archive)
        folder, program = _program_of(archive)
        orders = [n for n in archive.namelist() if n == f"{folder}byteorder"]
        is_little = not orders or archive.read(orders[0]).strip() != b"big"
        if is_little != (sys.byteorder == "little"):
            raise ModelError("it was saved on a machine of the other byte order; save it here")
        storages: dict[str, torch.UntypedStorage] = {}

        def read_storage(told: tuple[Any, ...]) -> Stored:
            key, dtype, num_bytes = _storage_told(told)
            if key not in storages:
                storages[key] = _in_memory(archive.read(f"{folder}data/{key}"))
            if storages[key].nbytes() < num_bytes:
                raise Refused(
                    f"says that storage '{key}' has {num_bytes:,} bytes, but the file has "
                    f"{storages[key].nbytes():,}"
                )
            return Stored(storages[key], dtype)

        return PickleMachine(io.BytesIO(program), read_storage).run()


def _program_of(archive: zipfile.ZipFile) -> tuple[str, bytes]:
    """The folder in the archive, with its slash, and its pickle."""
    found = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["data.pkl"]]
    if len(found) != 1:
        raise NoCheckpoint(f"it holds {len(found)} pickles")
    if found[0].file_size > _MAX_PROGRAM_BYTES:
        raise Refused(f"has a pickle of {found[0].file_size:,} bytes beside its tensors")
    return found[0].filename.removesuffix("data.pkl"), archive.read(found[0])


def _empty_storage(num_bytes: int) -> torch.UntypedStorage:
    return torch.empty(num_bytes, dtype=torch.uint8).untyped_storage()


def _in_memory(content: bytes) -> torch.UntypedStorage:
    if not content:
        return _empty_storage(0)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()


def read_old_format(file: IO[bytes]) -> object:
    """What a checkpoint in the format before zip holds.

    Raises:
        NoCheckpoint: It is another kind of pickle.
        Refused: Its pickle asks for something that is not given.
        ValueError: It is damaged; also ``IndexError``, ``KeyError`` and ``EOFError``.
    """
    content = io.BytesIO(file.read())
    head = [PickleMachine(content, _no_storage).run() for _ in range(3)]
    if head[0] != _MAGIC or head[1] != _VERSION or not isinstance(head[2], dict):
        raise NoCheckpoint("it is a pickle of another kind")
    if head[2].get("little_endian", True) != (sys.byteorder == "little"):
        raise ModelError("it was saved on a machine of the other byte order; save it here")
    storages = _Storages(len(content.getbuffer()))
    found = PickleMachine(content, storages.take).run()
    keys = PickleMachine(content, _no_storage).run()
    storages.fill(keys, content)
    return found


class _Storages:
    """Storages that are taken before their content is read, up to the size of the file."""

    def __init__(self, file_bytes: int) -> None:
        self._left = file_bytes
        self._taken: dict[str, torch.UntypedStorage] = {}
        self._item_bytes: dict[str, int] = {}

    def take(self, told: tuple[Any, ...]) -> Stored | Named:
        if told[:1] == ("module",) and len(told) == 4 and isinstance(told[1], Named):
            return told[1]  # the other two are its source, for a warning that torch gave
        key, dtype, num_bytes = _storage_told(told[:5])
        if len(told) > 5 and told[5] is not None:
            raise Refused("has storages within storages, as torch wrote before 0.4")
        if key not in self._taken:
            self._left -= num_bytes
            if self._left < 0:
                raise Refused(f"says that its storages have {num_bytes:,} bytes more than the file")
            self._taken[key] = _empty_storage(num_bytes)
            self._item_bytes[key] = dtype.itemsize
        if self._taken[key].nbytes() < num_bytes:
            raise Refused(f"gives two sizes for storage '{key}'")
        return Stored(self._taken[key], dtype)

    def fill(self, keys: object, content: IO[bytes]) -> None:
        if not isinstance(keys, list) or set(map(str, keys)) != self._taken.keys():
            raise EOFError("the list of its storages does not fit")
        for key in map(str, keys):
            storage = self._taken[key]
            length = int.from_bytes(content.read(_LENGTH_BYTES), sys.byteorder)
            read = content.read(storage.nbytes())
            if length * self._item_bytes[key] != storage.nbytes() or len(read) < storage.nbytes():
                raise EOFError(f"storage '{key}' breaks off")
            if read:
                storage.copy_(_in_memory(read))


def _no_storage(_: tuple[Any, ...]) -> Stored:
    raise Refused("has tensors where none belong")


def _storage_told(told: tuple[Any, ...]) -> tuple[str, torch.dtype, int]:
    """Key, type and bytes of a storage."""
    if len(told) != 5 or told[0] != "storage" or not isinstance(told[1], Named):
        raise Refused("refers to something other than a storage")
    dtype = storage_dtype(told[1])
    key, count = told[2], told[4]
    if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refused("refers to a storage that is none")
    return key, dtype, count * dtype.itemsize
