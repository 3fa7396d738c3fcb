"""Gives a pickled module its state, once nothing in it can run or be taken for something else.

The attributes of a module are its author's to choose, and torch calls some by name: ``forward``,
hooks, ``__deepcopy__``. So no attribute may hide a method, hooks must be empty, and each value is
data, a module, or a harmless layer class.
"""

from __future__ import annotations

import argparse
import enum
import functools
import pathlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.inputs.names import NAMES_ALLOWED, is_plain_part, shown
from fairdeploy.inputs.pickled_names import Named, free_callable, module_class
from fairdeploy.inputs.pickled_values import Refused

_TABLES = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
_FRESH = nn.Module().__dict__
_HOOKS = frozenset(name for name in _FRESH if name.endswith("_hooks") or "_hooks_" in name)
_RESTORED_IN = "torch.nn.modules."
# Recurrent layers name their weights layer by layer while they are restored.
_MAX_LAYERS = 256
_MAX_DEPTH = 20
_MAX_LEVELS = 100
_MAX_PATHS = 200_000
_SCALARS = (
    str, bool, int, float, complex, bytes, bytearray, type(None), torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch.Size, slice, range, pathlib.PurePosixPath, Tensor,
    nn.Parameter, np.dtype,
)  # fmt: skip
_CONTAINERS = (
    list, tuple, set, frozenset, dict, OrderedDict, Counter, defaultdict, argparse.Namespace,
)  # fmt: skip


def restore(module: nn.Module, state: object, plain: PlainValues) -> None:
    """Give an empty module its state (changes ``module``).

    Raises:
        Refused: Something in the state is not a module's.
    """
    kind = type(module)
    if type(state) is not dict or module.__dict__:
        raise Refused(f"gives its {kind.__name__} a state that is no module's")
    checked = {name: _checked(kind, name, value, plain) for name, value in state.items()}
    for name, value in _FRESH.items():  # older versions of torch lack some
        checked.setdefault(name, type(value)() if isinstance(value, dict | set) else value)
    if isinstance(module, nn.RNNBase) and not _is_recurrent(checked):
        raise Refused(f"gives its {kind.__name__} a state that does not fit")
    # Other packages restore modules in ways that were not read.
    own = kind if kind.__setstate__.__module__.startswith(_RESTORED_IN) else nn.Module
    try:
        cast("Any", own).__setstate__(module, checked)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise Refused(f"gives its {kind.__name__} a state that does not fit") from error


def _checked(kind: type[nn.Module], name: object, value: object, plain: PlainValues) -> object:
    where = f"its {kind.__name__}"
    if not isinstance(name, str) or not is_plain_part(name):
        raise Refused(f"names an attribute of {where} '{shown(name)}'; {NAMES_ALLOWED}")
    if name in _TABLES:
        return _table(kind, value, _TABLES[name])
    if name in _HOOKS:
        if not isinstance(value, dict) or value:
            raise Refused(f"has hooks in {where} ('{name}'), which are code")
        return OrderedDict()
    if name == "_compiled_call_impl" or callable(getattr(kind, name, None)):
        raise Refused(f"replaces the method '{name}' of {where}")
    if name in _FRESH and not isinstance(value, type(_FRESH[name]) | bool):
        raise Refused(f"has a {type(value).__name__} for '{name}' of {where}")
    return plain.checked(value, f"'{name}' of {where}")


def _table(kind: type[nn.Module], table: object, wanted: type[Any]) -> dict[str, Any]:
    """A copy, which the rest of the pickle cannot reach."""
    where = f"its {kind.__name__}"
    if not isinstance(table, dict):
        raise Refused(f"gives {where} no dictionary of {wanted.__name__}s")
    for name, value in table.items():
        if not is_plain_part(name):
            raise Refused(f"names a part of {where} '{shown(name)}'; {NAMES_ALLOWED}")
        if hasattr(kind, name):
            raise Refused(f"names a part of {where} '{name}', which it has already")
        if value is not None and not isinstance(value, wanted):
            raise Refused(f"has a {type(value).__name__} for '{name}' of {where}")
    return dict(table)


class PlainValues:
    """Looks values over that are stored in a module; each once, however often it is stored."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, object]] = {}

    def checked(self, value: object, where: str, depth: int = 0) -> object:
        """``value`` with its names looked up (changes lists and dictionaries), if it is plain.

        Raises:
            Refused: It is code, or of a class that is not known.
        """
        if isinstance(value, Named):
            return _looked_up(value, where)
        if type(value) in _SCALARS or isinstance(value, nn.Module | enum.Enum | functools.partial):
            return value
        if type(value) not in _CONTAINERS:
            raise Refused(f"has a {type(value).__name__} as {where}")
        if id(value) not in self._seen:
            if depth >= _MAX_DEPTH:
                raise Refused(f"nests {where} too deep")
            self._seen[id(value)] = (value, value)
            self._seen[id(value)] = (value, self._container(value, where, depth + 1))
        return self._seen[id(value)][1]

    def _container(self, value: Any, where: str, depth: int) -> object:
        if type(value) is argparse.Namespace:
            self._container(vars(value), where, depth)
            return value
        if isinstance(value, dict):
            for key, item in list(value.items()):
                value[key] = self.checked(item, where, depth)
            return value
        items = [self.checked(item, where, depth) for item in value]
        if isinstance(value, list):
            value[:] = items
            return value
        return type(value)(items)


def _looked_up(named: Named, where: str) -> object:
    """The layer class or function; other classes remain names, which nothing can call."""
    found = free_callable(named)
    if found is None and module_class(named) is None:
        raise Refused(f"stores {shown(named.name)} as {where}")
    return named if found is None else found


def check_tree(root: nn.Module) -> None:
    """Refuse modules that hold themselves, or so many by so many ways that walking has no end.

    Raises:
        Refused: They do.
    """
    if _num_paths(root, {}, ()) > _MAX_PATHS:
        raise Refused(f"holds modules by more than {_MAX_PATHS:,} ways")


def _num_paths(module: nn.Module, counted: dict[int, int], above: tuple[int, ...]) -> int:
    if id(module) in above or len(above) > _MAX_LEVELS:
        raise Refused(f"holds modules in themselves, or more than {_MAX_LEVELS} deep")
    if id(module) not in counted:
        children = [child for child in module._modules.values() if child is not None]
        inside = (*above, id(module))
        counted[id(module)] = 1 + sum(_num_paths(child, counted, inside) for child in children)
    return counted[id(module)]


def _is_recurrent(state: Mapping[str, object]) -> bool:
    layers, names = state.get("num_layers"), state.get("_all_weights")
    is_counted = type(layers) is int and 0 < layers <= _MAX_LAYERS
    return is_counted and isinstance(names, list) and bool(names) and isinstance(names[0], list)
