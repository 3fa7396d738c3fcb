"""Assembles pickle programs by hand: ones that no pickler would write."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

CANARY = "RAN"
COMMAND = f"touch {CANARY}"
PYTHON = f"open('{CANARY}','w').close()"

HEAD = b"\x80\x02"
TAIL = b"."


def name(full_name: str) -> bytes:
    """Push what a dotted name stands for."""
    module, _, last = full_name.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def late_name(full_name: str) -> bytes:
    """The same by texts on the stack, as protocol 4 has it."""
    module, _, last = full_name.rpartition(".")
    return text(module) + text(last) + b"\x93"


def text(value: str) -> bytes:
    """Push a text."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """Push a whole number."""
    return pickle.dumps(value, protocol=2)[2:-1]


def together(*items: bytes) -> bytes:
    """Push a tuple."""
    return b"(" + b"".join(items) + b"t"


def table(*pairs: tuple[bytes, bytes]) -> bytes:
    """Push a dictionary."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def call(full_name: str, *arguments: bytes) -> bytes:
    """Call a function or class."""
    return name(full_name) + together(*arguments) + b"R"


def new(full_name: str, *arguments: bytes) -> bytes:
    """Make an empty object."""
    return name(full_name) + together(*arguments) + b"\x81"


def built(made: bytes, state: bytes) -> bytes:
    """Give an object a state."""
    return made + state + b"b"


def storage(kind: str, key: str, count: int) -> bytes:
    """Push a storage of the archive."""
    told = together(text("storage"), name(f"torch.{kind}"), text(key), text("cpu"), number(count))
    return told + b"Q"


def tensor(stored: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Push a tensor."""
    return call(
        "torch._utils._rebuild_tensor_v2", stored, number(offset),
        together(*map(number, size)), together(*map(number, stride)),
        b"\x89", call("collections.OrderedDict"),
    )  # fmt: skip


def parameter(made: bytes) -> bytes:
    """Push a parameter."""
    return call("torch._utils._rebuild_parameter", made, b"\x88", call("collections.OrderedDict"))


def module(
    kind: str,
    *attributes: tuple[bytes, bytes],
    children: tuple[tuple[bytes, bytes], ...] = (),
    parameters: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Push a module with a state of its own."""
    state = table(
        (text("training"), b"\x89"),
        (text("_modules"), table(*children)),
        (text("_parameters"), table(*parameters)),
        (text("_buffers"), b"}"),
        *attributes,
    )
    return built(new(kind), state)


def checkpoint(program: bytes, records: dict[str, bytes] | None = None) -> bytes:
    """A file of torch's zip format around a program."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", HEAD + program + TAIL)
        archive.writestr("model/byteorder", "little")
        for key, content in (records or {"0": b"\0" * 64}).items():
            archive.writestr(f"model/data/{key}", content)
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


def old_checkpoint(program: bytes, keys: tuple[str, ...] = (), rest: bytes = b"") -> bytes:
    """A file of the format before zip around a program."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [0x1950A86A20F9469CFC6C, 1001, facts]
    return (
        b"".join(pickle.dumps(part, protocol=2) for part in head)
        + HEAD + program + TAIL
        + pickle.dumps(list(keys), protocol=2)
        + rest
    )  # fmt: skip


def write(path: Path, content: bytes) -> Path:
    """Put bytes into a file."""
    path.write_bytes(content)
    return path
