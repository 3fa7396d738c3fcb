"""Whole numbers that a module holds: in attributes, and nested in what the attributes hold.

A slot is a path of keys from the module. Lists and tuples of whole numbers are one slot, because
they are used together (split sizes, shapes). Real numbers are no slots: a scale such as
``head_dim ** -0.5`` belongs to the trained network and stays.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

MAX_DEPTH = 4
NEVER_PATCHED = {
    "kernel_size", "stride", "padding", "dilation", "training", "output_padding", "inplace",
    "output_size", "transposed",
}  # fmt: skip
_OPAQUE = (
    nn.Module, Tensor, torch.dtype, torch.device, enum.Enum, type, FunctionType, MethodType,
    ModuleType, str, bytes, float, complex,
)  # fmt: skip

Key = tuple[str, Any]
"""``("attribute", name)`` or ``("item", key)``."""
SlotPath = tuple[Key, ...]
Number = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a number, or a sequence of numbers, is held."""

    path: SlotPath
    value: Number


def slots(module: nn.Module) -> tuple[Slot, ...]:
    """All slots of the module itself, not of its submodules."""
    return tuple(
        slot
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in NEVER_PATCHED
        for slot in _slots_in(value, (("attribute", name),), {id(module)})
    )


def _slots_in(value: Any, path: SlotPath, seen: set[int]) -> Iterator[Slot]:
    if _is_number(value):
        yield Slot(path, value)
        return
    if value is None or isinstance(value, (bool, *_OPAQUE)) or callable(value):
        return
    if len(path) > MAX_DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple)) and value and all(_is_number(item) for item in value):
        yield Slot(path, tuple(value))
        return
    for key, item in _entries(value):
        yield from _slots_in(item, (*path, key), seen)


def _entries(value: Any) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield ("item", key), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield ("item", index), item
    elif hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            if name not in NEVER_PATCHED and not name.startswith("__"):
                yield ("attribute", name), item


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, (bool, enum.Enum))


def assign(module: nn.Module, path: SlotPath, value: Number) -> None:
    """Put a number in a slot (changes ``module``); tuples on the way are built anew."""
    _assigned(module, path, value)


def _assigned(holder: Any, path: SlotPath, value: Number) -> Any:
    """``holder`` with the value in place: itself, or a new tuple."""
    (kind, key), *rest = path
    old = getattr(holder, key) if kind == "attribute" else holder[key]
    new = _assigned(old, tuple(rest), value) if rest else _like(old, value)
    if new is old:
        return holder
    if kind == "attribute":
        # a frozen dataclass is a copy of ours, too
        setter: Callable[[Any, str, Any], None] = (
            setattr if isinstance(holder, nn.Module) else object.__setattr__
        )
        setter(holder, key, new)
    elif isinstance(holder, tuple):
        return _like(holder, (*holder[:key], new, *holder[key + 1 :]))
    else:
        holder[key] = new
    return holder


def _like(old: Any, value: Any) -> Any:
    """A sequence of the old one's type; a number stays a number."""
    if not isinstance(value, tuple):
        return value
    if isinstance(old, list):
        return list(value)
    return type(old)(*value) if hasattr(old, "_fields") else type(old)(value)
