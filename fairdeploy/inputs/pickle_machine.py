"""Runs the pickle of a checkpoint so that it can build data and empty modules, and do nothing else.

A pickle is a program for a small stack machine, whose dangerous instructions name a class or
function and call it. Here a name is a ``Named``, a word without power; calls go to the stand-ins of
``pickled_values``, classes of modules are made empty and given a state that ``module_state`` has
looked at, and whatever else a program asks for ends it. So what is checked is what happens: there
is no second reader that could understand the file differently.
"""

from __future__ import annotations

import argparse
import pickletools
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fairdeploy.inputs.module_state import PlainValues, restore
from fairdeploy.inputs.pickled_names import Named, constant, is_allowed, module_class
from fairdeploy.inputs.pickled_values import (
    MAKERS,
    Refused,
    Stored,
    call,
    checked_key,
    checked_set,
    partial_of,
)

# A tensor takes about 30, so these are more than 100,000 tensors.
_MAX_OPERATIONS = 3_000_000
# Items of what is copied by calls; an honest file has each copied once.
_MAX_COPIED = 2**26
_DICTIONARIES = (dict, OrderedDict, Counter, defaultdict)

StorageReader = Callable[[tuple[Any, ...]], Stored | Named]


class NotAllowed(Refused):
    """The pickle names something that is not on the list."""


class PickleMachine:
    """Runs one pickle.

    Args:
        file: Stands at its beginning, and after it when it has run.
        read_storage: Gives the storage that a persistent id stands for.
    """

    def __init__(self, file: IO[bytes], read_storage: StorageReader) -> None:
        self._file = file
        self._read_storage = read_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._plain = PlainValues()
        self._copied = 0
        self._modules: list[nn.Module] = []

    def run(self) -> object:
        """What the pickle describes.

        Raises:
            Refused: It asks for something that is not given.
            ValueError: It is damaged; also ``IndexError``, ``KeyError`` and ``EOFError``.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
            if count > _MAX_OPERATIONS:
                raise Refused(f"takes more than {_MAX_OPERATIONS:,} steps")
            if opcode.name in _PUSHED:
                self._stack.append(argument)
            elif opcode.name in _OPERATIONS:
                _OPERATIONS[opcode.name](self, argument)
            elif opcode.name == "STOP":
                return self._finished(self._stack.pop())
            elif opcode.name not in _SKIPPED:
                raise Refused(f"has the instruction {opcode.name}, which torch.save never writes")
        raise EOFError("the pickle breaks off")

    def _finished(self, found: object) -> object:
        empty = [module for module in self._modules if not module.__dict__]
        if empty:
            raise Refused(f"makes a {type(empty[0]).__name__} without a state")
        return found

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def _push_new(self, make: Callable[[], object]) -> None:
        self._stack.append(make())

    def _tuple(self, size: int | None) -> None:
        items = self._pop_mark() if size is None else self._stack[len(self._stack) - size :]
        if size:
            if len(items) < size:
                raise IndexError("the stack is empty")
            del self._stack[-size:]
        self._stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Refused(f"appends to a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in _DICTIONARIES or len(items) % 2:
            raise Refused(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise Refused(f"adds to a {type(target).__name__}")
        target |= checked_set(items)

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("names something by other than text")
        named = Named(_current_name(module, name))
        if named.name not in MAKERS and not is_allowed(named):
            raise NotAllowed(named.name)
        found = constant(named)
        self._stack.append(named if found is None else found)

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or type(arguments) is not tuple:
            raise Refused(f"calls a {type(function).__name__}")
        self._count_copied(arguments)
        self._stack.append(call(function, arguments))

    def _new_object(self, _: object) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if not isinstance(kind, Named) or type(arguments) is not tuple:
            raise Refused(f"makes a {type(kind).__name__}")
        found = module_class(kind)
        if found is None or arguments:
            self._count_copied(arguments)
            self._stack.append(call(kind, arguments))
        else:
            self._modules.append(object.__new__(found))
            self._stack.append(self._modules[-1])

    def _build(self, _: object) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, nn.Module) and type(state) is dict:
            self._count_copied((state, *state.values()))
            restore(target, state, self._plain)
        elif type(target) is partial:
            made = partial_of(state)
            cast("Any", target).__setstate__((made.func, made.args, made.keywords, {}))
        elif type(target) is argparse.Namespace and isinstance(state, dict):
            vars(target).update({str(key): value for key, value in state.items()})
        elif isinstance(target, np.dtype) and isinstance(state, tuple):
            self._stack[-1] = target.newbyteorder(">") if ">" in state[1:2] else target
        elif type(target) not in (OrderedDict, Tensor, nn.Parameter):
            # State dictionaries carry version numbers, tensors their author's attributes: left out.
            raise Refused(f"gives a state to a {type(target).__name__}")

    def _persistent(self, _: object) -> None:
        told = self._stack.pop()
        if type(told) is not tuple:
            raise Refused("refers to something other than a storage")
        self._stack.append(self._read_storage(told))

    def _remember(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def _recall(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _count_copied(self, values: Iterable[object]) -> None:
        self._copied += sum(len(value) for value in values if isinstance(value, Sized))
        if self._copied > _MAX_COPIED:
            raise Refused("copies the same values again and again")

    def _drop(self) -> None:
        self._stack.pop()

    def _drop_mark(self) -> None:
        self._pop_mark()

    def _stack_name(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)


def names_in(file: IO[bytes]) -> set[str]:
    """Everything that one pickle names and that is not allowed; nothing is run.

    Raises:
        ValueError: It is damaged.
    """
    found: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(_current_name(*str(argument).split(" ", 1)))
        elif opcode.name == "STACK_GLOBAL":
            found.add(_current_name(*strings[-2:]) if len(strings) > 1 else "")
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = strings[-1] if strings else ""
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            strings.append(memo.get(int(argument or 0), ""))
        elif isinstance(argument, str):
            strings.append(argument)
    return {name for name in found if name not in MAKERS and not is_allowed(Named(name))}


def _current_name(module: str, name: str) -> str:
    """The name in today's Python of what an older one pickled."""
    module, name = _RENAMED.get((module, name), (module, name))
    return f"{_RENAMED_MODULES.get(module, module)}.{name}"


_RENAMED: dict[tuple[str, str], tuple[str, str]] = torch._utils.NAME_MAPPING
_RENAMED_MODULES: dict[str, str] = torch._utils.IMPORT_MAPPING
_PUSHED = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
) | frozenset(
    ("BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
)
_SKIPPED = frozenset(("PROTO", "FRAME"))
_OPERATIONS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "MARK": PickleMachine._mark,
    "NONE": lambda self, _: self._stack.append(None),
    "NEWTRUE": lambda self, _: self._stack.append(True),
    "NEWFALSE": lambda self, _: self._stack.append(False),
    "EMPTY_TUPLE": lambda self, _: self._stack.append(()),
    "EMPTY_LIST": lambda self, _: self._push_new(list),
    "EMPTY_DICT": lambda self, _: self._push_new(dict),
    "EMPTY_SET": lambda self, _: self._push_new(set),
    "TUPLE": lambda self, _: self._tuple(None),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "FROZENSET": lambda self, _: self._stack.append(frozenset(checked_set(self._pop_mark()))),
    "APPEND": lambda self, _: self._append([self._stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._pop_mark()),
    "SETITEM": lambda self, _: self._set_items([self._stack.pop(), self._stack.pop()][::-1]),
    "SETITEMS": lambda self, _: self._set_items(self._pop_mark()),
    "ADDITEMS": lambda self, _: self._add_items(self._pop_mark()),
    "GLOBAL": lambda self, text: self._name(*text.split(" ", 1)),
    "STACK_GLOBAL": PickleMachine._stack_name,
    "REDUCE": PickleMachine._reduce,
    "NEWOBJ": PickleMachine._new_object,
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent,
    "BINPUT": PickleMachine._remember,
    "LONG_BINPUT": PickleMachine._remember,
    "MEMOIZE": PickleMachine._remember,
    "BINGET": PickleMachine._recall,
    "LONG_BINGET": PickleMachine._recall,
    "POP": lambda self, _: self._drop(),
    "POP_MARK": lambda self, _: self._drop_mark(),
}
