"""Globs on module paths: which tensors and which groups they match.

``*`` crosses dots, ``?`` is one character, ``[12]`` one of them; letters' case counts. A glob that
matches a module matches everything inside it, so ``layer4`` and ``layer4.*`` mean the same. The
full name of a parameter matches too.

A group is made by several modules: those whose weights have its units as outputs, and the norms
and tables that follow them. It *is touched* by a glob that matches any of these. It *is covered* by
globs that match all layers among them (norms, tables and depthwise convolutions take the width that
they are given).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fairdeploy.errors import UsageError
from fairdeploy.graph.call_facts import module_path, stored_factors
from fairdeploy.graph.operators import multiplies, op_name
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.graph.walk.label_grids import length_of

_NEAR_NAMES = 3
_NEAR_ENOUGH = 0.5


def matches(glob: str, tensor: str) -> bool:
    """Whether a glob matches a parameter's name, its module or a module around that."""
    return any(fnmatchcase(path, glob) for path in _paths(tensor))


def producers(group: Group) -> tuple[str, ...]:
    """Names of the tensors that make the group's units; of a residual branch, all that it has."""
    return group.branch_tensors or tuple(
        dict.fromkeys(member.tensor for member in group.members if member.role == "produces")
    )


class Layers:
    """Knows which of a group's tensors are weights of layers that set its width."""

    def __init__(self, graph: UnitGraph) -> None:
        weights = {
            name
            for node in graph.module.graph.nodes
            if node.op == "call_function" and multiplies(op_name(node))
            for name in stored_factors(node)
        }
        self._matrices = {n for n in weights & set(graph.tensor_units) if _rank(graph, n) > 1}
        self._depthwise = {
            name
            for name in self._matrices
            if _rank(graph, name) > 2 and length_of(graph.tensor_units[name][1], 1) == 1
        }

    def of(self, group: Group) -> tuple[str, ...]:
        """Weights of the layers that make the group; everything that makes it if there is none."""
        names = producers(group)
        layers = tuple(name for name in names if name in self._matrices)
        setting = tuple(name for name in layers if name not in self._depthwise)
        return setting or layers or names


def check_globs(graph: UnitGraph, option: str, globs: Iterable[str]) -> None:
    """Refuse globs that match nothing in the network.

    Raises:
        UsageError: With the names that come nearest.
    """
    for glob in globs:
        if any(matches(glob, tensor) for tensor in graph.tensor_units):
            continue
        names = _module_names(graph)
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(
                f"{option} '{glob}' matches no module of this network; {_near(glob, names)}"
                "'fairdeploy inspect' lists them"
            )


def module_of(tensor: str) -> str:
    """Path of the module that owns a tensor; the tensor's own name for one at the root."""
    return tensor.rpartition(".")[0] or tensor


def _paths(tensor: str) -> Iterable[str]:
    parts = tensor.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _module_names(graph: UnitGraph) -> list[str]:
    """Dotted paths of all modules, also of those without parameters."""
    paths = [module_path(node) for node in graph.module.graph.nodes]
    paths += [module_of(name) for name in graph.tensor_units]
    return sorted({prefix for path in paths if path for prefix in _paths(path)})


def _near(glob: str, names: Sequence[str]) -> str:
    plain = glob.replace("*", "").strip(".")
    close = difflib.get_close_matches(plain, names, n=_NEAR_NAMES, cutoff=_NEAR_ENOUGH)
    if not close:
        tops = sorted({name.partition(".")[0] for name in names})
        return f"it has {', '.join(repr(name) for name in tops[:8])}; "
    return f"did you mean {' or '.join(repr(name) for name in close)}? "


def _rank(graph: UnitGraph, tensor: str) -> int:
    return len(graph.tensor_units[tensor])
