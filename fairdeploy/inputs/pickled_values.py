"""Puts together what a checkpoint's pickle asks for: tensors, parameters and plain containers.

Each function that a pickle may call has a stand-in here, which checks what it is given. A tensor
must lie within its storage, and a storage within its file, before any memory is taken.
"""

from __future__ import annotations

import argparse
import functools
import math
import pathlib
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.inputs.names import is_plain_part, shown
from fairdeploy.inputs.pickled_names import Named, constant, enum_class, free_callable

# A view that repeats its storage costs nothing until something copies it.
_FREE_ELEMENTS = 2**24
_MAX_DIMS = 25
_MAX_KEY_INT = 2**60
_PLAIN_KEYS = (str, bool, int, float, bytes, type(None), torch.dtype, torch.device, Tensor)
_NUMBER_TYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")


class Refused(Exception):
    """The pickle asks for something that is not given; the text says what."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A storage in memory, and how its numbers are read."""

    storage: torch.UntypedStorage
    dtype: torch.dtype


def call(function: Named, arguments: tuple[Any, ...]) -> object:
    """The result of a call that is on the list.

    Raises:
        Refused: It is not, or its arguments are not what they should be.
    """
    maker = MAKERS.get(function.name)
    if maker is None:
        return _member(function, arguments)
    try:
        return maker(*arguments)
    except Refused:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise Refused(f"calls {function.name} with arguments that do not fit") from error


def checked_key(key: object) -> object:
    """A key of a dictionary or set.

    Raises:
        Refused: Hashing or comparing it could take for ever, or it is no value.
    """
    parts = key if isinstance(key, tuple) and len(key) < 9 else (key,)
    for part in parts:
        is_huge = isinstance(part, int) and abs(part) >= _MAX_KEY_INT
        if (type(part) not in _PLAIN_KEYS and not isinstance(part, nn.Parameter)) or is_huge:
            raise Refused(f"has a key of type {type(part).__name__}")
    return key


def checked_set(items: Iterable[object]) -> set[object]:
    """A set of plain values."""
    return {checked_key(item) for item in items}


def partial_of(state: object) -> functools.partial[Any]:
    """A stored call of a harmless layer with plain settings.

    Raises:
        Refused: Anything else.
    """
    if not isinstance(state, tuple) or len(state) != 4:
        raise Refused("has a functools.partial without its parts")
    function, arguments, settings, extra = state
    made = free_callable(function) if isinstance(function, Named) else None
    if made is None:
        raise Refused(f"has a functools.partial of {_name_of(function)}")
    if arguments != () or extra or not isinstance(settings, dict):
        raise Refused("has a functools.partial with more than named settings")
    plain = {
        key: _setting(value) for key, value in settings.items() if is_plain_part(checked_key(key))
    }
    if len(plain) < len(settings):
        raise Refused("has a functools.partial whose settings are not named plainly")
    return functools.partial(cast("Callable[..., Any]", made), **plain)


def _setting(value: object) -> object:
    found = free_callable(value) if isinstance(value, Named) else value
    if isinstance(found, type) or found is None or type(found) in (bool, float, str, torch.dtype):
        return found
    if type(found) is int and abs(found) < 2**16:
        return found
    raise Refused("has a functools.partial with settings other than numbers and layer classes")


def _member(function: Named, arguments: tuple[Any, ...]) -> object:
    found = enum_class(function)
    if found is None or len(arguments) != 1 or type(arguments[0]) not in (str, int):
        raise Refused(f"calls {function.name}")
    try:
        return found(arguments[0])
    except ValueError as error:
        raise Refused(f"names a member that {function.name} lacks") from error


def _name_of(value: object) -> str:
    return shown(value.name) if isinstance(value, Named) else type(value).__name__


def _tensor(stored: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """``torch._utils._rebuild_tensor_v2``; whether it needs gradients is the parameter's matter."""
    if not isinstance(stored, Stored):
        raise Refused("builds a tensor without a storage")
    return _viewed(stored.storage, stored.dtype, offset, size, stride)


def _tensor_of_type(
    stored: object, offset: object, size: object, stride: object, _grad: object, _hooks: object,
    dtype: object, *_: object,
) -> Tensor:  # fmt: skip
    if not isinstance(stored, Stored):
        raise Refused("builds a tensor without a storage")
    found = constant(dtype) if isinstance(dtype, Named) else dtype
    if not isinstance(found, torch.dtype):
        raise Refused("builds a tensor of no type")
    return _viewed(stored.storage, found, offset, size, stride)


def _viewed(
    storage: torch.UntypedStorage, dtype: torch.dtype, offset: object, size: object, stride: object
) -> Tensor:
    lengths, steps = whole_numbers(size), whole_numbers(stride)
    (start,) = whole_numbers((offset,))
    if len(lengths) != len(steps) or len(lengths) > _MAX_DIMS:
        raise Refused("builds a tensor whose size and strides do not fit")
    num_stored = storage.nbytes() // dtype.itemsize
    last = start + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
    if 0 in lengths:
        last = start - 1
    if last >= num_stored or start > num_stored:
        raise Refused(f"builds a tensor of {list(lengths)} from {num_stored} stored numbers")
    if math.prod(lengths) > max(num_stored, _FREE_ELEMENTS):
        raise Refused(f"spreads {num_stored} stored numbers to a tensor of {list(lengths)}")
    return torch.empty(0, dtype=dtype).set_(storage, start, lengths, steps)


def whole_numbers(values: object) -> tuple[int, ...]:
    """Lengths, strides and offsets: whole numbers from 0.

    Raises:
        Refused: They are anything else.
    """
    if not isinstance(values, tuple | list):
        raise Refused("builds a tensor whose size is no list of numbers")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise Refused("builds a tensor whose size is no list of whole numbers from 0")
    return tuple(values)


def _meta_tensor(dtype: object, size: object, stride: object, *_: object) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise Refused("builds a tensor of no type")
    return torch.empty_strided(
        whole_numbers(size), whole_numbers(stride), dtype=dtype, device="meta"
    )


def _parameter(data: object, requires_grad: object = True, *_: object) -> nn.Parameter:
    """Hooks and attributes, which the last arguments hold, are left out."""
    if not isinstance(data, Tensor):
        raise Refused("builds a parameter without a tensor")
    return nn.Parameter(data.detach(), requires_grad=requires_grad is True)


def _typed_tensor(function: object, kind: object, arguments: object, _state: object) -> Tensor:
    """A tensor with attributes of its own, which are left out."""
    plain = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    if not isinstance(function, Named) or function.name not in _TENSOR_MAKERS:
        raise Refused(f"builds a tensor by {_name_of(function)}")
    if not isinstance(kind, Named) or kind.name not in plain or not isinstance(arguments, tuple):
        raise Refused(f"builds a tensor of the class {_name_of(kind)}")
    made = _TENSOR_MAKERS[function.name](*arguments)
    return _parameter(made) if kind.name == plain[1] else made


def _ordered(pairs: Sequence[Any] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _counter(counts: object = None) -> Counter[Any]:
    if counts is not None and type(counts) is not dict:
        raise Refused("counts something other than a dictionary")
    return Counter(cast("dict[Any, int]", counts or {}))


def _default_dict(factory: object = None) -> defaultdict[Any, Any]:
    made = free_callable(factory) if isinstance(factory, Named) else None
    if factory is not None and (not isinstance(made, type) or issubclass(made, nn.Module)):
        raise Refused(f"has a defaultdict of {_name_of(factory)}")
    return defaultdict(cast("Callable[[], Any] | None", made))


def _size(lengths: object = ()) -> torch.Size:
    return torch.Size(whole_numbers(lengths))


def _device(kind: object, index: object = None) -> torch.device:
    if not isinstance(kind, str):
        raise Refused("names no device")
    return torch.device(kind) if type(index) is not int else torch.device(kind, index)


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "utf-8", "ascii"):
        raise Refused("encodes something other than text")
    return text.encode(str(encoding))


def _byte_array(content: object = b"", encoding: object = "latin1") -> bytearray:
    if isinstance(content, str):
        content = _encoded(content, encoding)
    if not isinstance(content, bytes | bytearray):
        raise Refused("makes a bytearray of something other than bytes")
    return bytearray(content)


def _listed(items: object = ()) -> Sequence[object]:
    if not isinstance(items, list | tuple):
        raise Refused("makes a set of something other than a list")
    return items


def _numbers(*values: object) -> tuple[Any, ...]:
    if not all(value is None or type(value) in (int, float) for value in values):
        raise Refused("makes a number or slice of something other than numbers")
    return values


def _path(*parts: object) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(*(str(part) for part in parts if isinstance(part, str)))


def _partial(_function: object) -> functools.partial[Any]:
    """The parts follow as its state."""
    return functools.partial(dict)


def _number_type(text: object, *_: object) -> np.dtype[Any]:
    if not isinstance(text, str) or not _NUMBER_TYPE.fullmatch(text):
        raise Refused("names a numpy type other than numbers")
    return np.dtype(text)


def _number(kind: object, content: object = b"") -> object:
    if not isinstance(kind, np.dtype) or not isinstance(content, bytes):
        raise Refused("makes a numpy number of something other than bytes")
    return np.frombuffer(content, kind, count=1)[0].item()


def _layout(name: object) -> torch.layout:
    found = constant(Named(str(name)))
    if not isinstance(found, torch.layout):
        raise Refused("names no layout")
    return found


_TENSOR_MAKERS: dict[str, Callable[..., Tensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
MAKERS: dict[str, Callable[..., object]] = {
    **_TENSOR_MAKERS,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "collections.defaultdict": _default_dict,
    "argparse.Namespace": argparse.Namespace,
    "functools.partial": _partial,
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib._local.PosixPath": _path,
    "_codecs.encode": _encoded,
    "builtins.bytearray": _byte_array,
    "builtins.set": lambda items=(): checked_set(_listed(items)),
    "builtins.frozenset": lambda items=(): frozenset(checked_set(_listed(items))),
    "builtins.complex": lambda *values: complex(*_numbers(*values)),
    "builtins.slice": lambda *values: slice(*_numbers(*values)),
    "builtins.range": lambda *values: range(*_numbers(*values)),
    "numpy.dtype": _number_type,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}
"""What a pickle may call, by name; types among them may be named as values too."""
