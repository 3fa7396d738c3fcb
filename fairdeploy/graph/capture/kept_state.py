"""Everything that a module keeps, so that it can be put back after its forward has run.

A forward may keep tensors (anchors, grids, masks), count its calls, or fill lists and dictionaries:
on itself, on its parts, on objects that it holds, on its class or beside it in its file. Traced,
what it keeps are torch's own fake tensors; and what it kept of one run has the sizes of that run.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_NUMBERS_AND_NAMES = (int, float, complex, str, bytes, bool, type(None))
_NO_HOLDERS = (type, ModuleType, FunctionType, MethodType)
_MAX_GLOBALS = 1_000
"""A longer table in the file of a module is a registry, and no forward fills it."""


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Whatever happens to ``module`` inside, afterwards it is as it was.

    Parameters are not compared number by number: no forward writes to them.
    """
    state = _State(module)
    try:
        yield
    finally:
        state.restore()


class _State:
    def __init__(self, module: nn.Module) -> None:
        self._tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._rows: list[tuple[Any, Any]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._memories: list[tuple[Any, int]] = []
        self._seen: set[int] = set()
        waiting: list[Any] = [module]
        while waiting:
            waiting += self._note(waiting.pop())

    def restore(self) -> None:
        """Put back what has changed."""
        for table, before in self._tables:
            plain = _plain_type(table)
            if not _is_same(list(plain.items(table)), list(before.items())):
                plain.clear(table)
                plain.update(table, before)
        for rows, before in self._rows:
            plain = _plain_type(rows)
            if not _is_same(list(plain.__iter__(rows)), list(before)):
                plain.clear(rows)
                (plain.update if plain is set else plain.extend)(rows, before)
        for owner, attributes in self._classes:
            for name in set(_own_attributes(owner)) - set(attributes):
                delattr(owner, name)
            for name, value in attributes.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)
        with torch.no_grad():
            for tensor, values in self._tensors:
                if not torch.equal(tensor, values):
                    tensor.copy_(values)
        for function, size in self._memories:
            if function.cache_info().currsize != size:
                function.cache_clear()

    def _note(self, value: Any) -> list[Any]:
        """Remember one thing; what it holds comes next."""
        if isinstance(value, _NUMBERS_AND_NAMES) or id(value) in self._seen:
            return []
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter):
                self._tensors.append((value, value.detach().clone()))
            return []
        if isinstance(value, dict):
            held = dict(_plain_type(value).items(value))
            self._tables.append((value, held))
            return list(held.values())
        if isinstance(value, (list, set, deque)):
            rows = list(_plain_type(value).__iter__(value))
            self._rows.append((value, rows))
            return rows
        if isinstance(value, tuple):
            return list(tuple.__iter__(value))
        return self._note_object(value)

    def _note_object(self, value: Any) -> list[Any]:
        is_torch_s = type(value).__module__.partition(".")[0] == "torch"
        if isinstance(value, _NO_HOLDERS) or (is_torch_s and not isinstance(value, nn.Module)):
            return []
        if not isinstance(getattr(value, "__dict__", None), dict):
            return []
        table = vars(value)
        self._tables.append((table, dict(table)))
        found = list(table.values())
        for owner in type(value).__mro__:
            found += self._note_class(owner)
        return found

    def _note_class(self, owner: type) -> list[Any]:
        """Its attributes that hold something, and what lies beside it in its file."""
        package = owner.__module__.partition(".")[0]
        if id(owner) in self._seen or package in {"torch", "builtins", "typing", "abc"}:
            return []
        self._seen.add(id(owner))
        attributes = _own_attributes(owner)
        self._classes.append((owner, attributes))
        beside = getattr(sys.modules.get(owner.__module__), "__dict__", {})
        self._memories += [
            (one, one.cache_info().currsize)
            for one in (*attributes.values(), *beside.values())
            if isinstance(one, functools._lru_cache_wrapper)
        ]
        tables = [
            one
            for name, one in beside.items()
            if not name.startswith("__") and isinstance(one, (dict, list, set, deque))
            and len(one) < _MAX_GLOBALS
        ]  # fmt: skip
        held = [v for v in attributes.values() if isinstance(v, (dict, list, set, deque, Tensor))]
        return [*tables, *held]


def _plain_type(value: Any) -> Any:
    """Whose methods read and write what is stored: a class of its own may answer otherwise.

    The table of activations of transformers, for one, makes a module of whatever is looked up.
    """
    return next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(value, kind))


def _own_attributes(owner: type) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if not name.startswith("__")}


def _is_same(now: list[Any], before: list[Any]) -> bool:
    """Whether two lists hold the same objects in the same order."""
    flat = [
        [part for one in items for part in (one if type(one) is tuple else (one,))]
        for items in (now, before)
    ]
    return len(flat[0]) == len(flat[1]) and all(a is b for a, b in zip(*flat, strict=True))


# ---- dictionaries in which a module keeps tensors that its forward computed earlier --------------


@contextlib.contextmanager
def emptied_caches(module: nn.Module) -> Iterator[None]:
    """Empty them for a while; afterwards they hold again what they held (changes ``module``).

    LeViT, for one, looks its attention bias up once and keeps it. Traced as it is, the kept tensor
    would be a constant of the graph, and the parameter that it came from would seem unused.
    """
    with unchanged(module):
        for _, cache in tensor_caches(module):
            cache.clear()
        yield


def tensor_caches(module: nn.Module) -> list[tuple[nn.Module, dict[Any, Any]]]:
    """The dictionaries that hold tensors and nothing else, with their modules."""
    return [
        (child, cache)
        for child, cache in _dictionaries(module)
        if cache and all(isinstance(value, Tensor) for value in cache.values())
    ]


def _dictionaries(module: nn.Module) -> Iterator[tuple[nn.Module, dict[Any, Any]]]:
    for child in module.modules():
        for name, value in list(vars(child).items()):
            if type(value) is dict and not _is_torch_s(name):
                yield child, value


def _is_torch_s(name: str) -> bool:
    """Whether torch keeps the dictionary: parameters, buffers, submodules, hooks."""
    return name in {"_parameters", "_buffers", "_modules"} or name.endswith("_hooks")
