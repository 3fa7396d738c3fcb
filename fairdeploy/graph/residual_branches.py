"""Residual branches: what can go from a network as a whole, since a shortcut leads around it.

Where two values are added, one operand may be computed for this sum alone. If zero is added in its
place, everything that only led to it has no reader left, and the sum gives back its other operand.
So a branch is a unit like a channel: removing it is exact where its reader, the sum, reads zero.
What lies inside does not matter, norms and unknown operators included.

Zero, and not the constant that a branch gives whose inner channels are all gone: a constant would
stay behind as an operator of its own (which runtimes with blocked layouts reformat around, and
which keeps two rectifiers in a row apart), and the repair lets the layer before make up for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import fetch_tensor, hint_shape, module_path, writes
from fairdeploy.graph.operators import op_name
from fairdeploy.graph.unit_graph import Branch, Group, UnitGraph
from fairdeploy.graph.walk.groups import unique_name

aten = torch.ops.aten
BLOCK = "block"
"""What users call a branch, in the names of groups."""


@dataclass(frozen=True, slots=True)
class _Found:
    total: fx.Node
    value: fx.Node
    shortcut: fx.Node
    nodes: frozenset[fx.Node]


def branch_groups(
    module: fx.GraphModule, first_unit: int, first_group: int
) -> tuple[tuple[Branch, ...], tuple[Group, ...]]:
    """All branches of the network in graph order, each with a group of one unit.

    Args:
        module: A captured graph.
        first_unit: Number of the first branch's unit.
        first_group: Index of its group.
    """
    branches: list[Branch] = []
    groups: list[Group] = []
    streams: set[tuple[int, ...]] = set()
    used: dict[str, int] = {}
    tensors_of = _Tensors(module)
    for number, found in enumerate(_find(module)):
        stream = hint_shape(found.total.meta["val"])[1:]
        tensors = tensors_of.read_by(found.nodes)
        name = unique_name(_name(found, module), used)
        branches.append(
            Branch(
                name=name,
                unit=first_unit + number,
                group=first_group + number,
                total=found.total.name,
                value=found.value.name,
                shortcut=found.shortcut.name,
                nodes=frozenset(node.name for node in found.nodes),
                tensors=tensors,
                is_first=stream not in streams,
            )
        )
        streams.add(stream)
        blocks = np.array([[first_unit + number]], dtype=np.int64)
        groups.append(
            Group(f"{name} ({BLOCK})", blocks, (), is_branch=True, branch_tensors=tensors)
        )
    return tuple(branches), tuple(groups)


def _find(module: fx.GraphModule) -> Iterator[_Found]:
    nodes = list(module.graph.nodes)
    moving = _nodes_that_depend_on_inputs(nodes)
    num_layers = len(_weights(module, nodes))
    for total in nodes:
        candidates = [
            _Found(total, value, shortcut, frozenset(exclusive))
            for value, shortcut in _operands(total)
            if value in moving and shortcut in moving
            for exclusive in [_exclusive(value, total, nodes)]
            if 0 < 2 * len(_weights(module, exclusive)) <= num_layers
        ]
        if candidates:
            # of two the one that does more: the other is the shortcut, and one must stay
            yield max(candidates, key=lambda found: len(_weights(module, found.nodes)))


def _operands(total: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What might go and what would stay: nothing unless the sum may give back the latter as is."""
    if total.target is not aten.add.Tensor or total.kwargs or len(total.args) != 2:
        return
    one, two = total.args
    if not (isinstance(one, fx.Node) and isinstance(two, fx.Node)) or one is two:
        return
    for value, shortcut in ((one, two), (two, one)):
        result, rest = total.meta.get("val"), shortcut.meta.get("val")
        if not (isinstance(result, Tensor) and isinstance(rest, Tensor)):
            continue
        is_alike = hint_shape(result) == hint_shape(rest) and result.dtype == rest.dtype
        is_computed = value.op == "call_function" and list(value.users) == [total]
        if is_alike and is_computed:
            yield value, shortcut


def _exclusive(value: fx.Node, total: fx.Node, nodes: list[fx.Node]) -> set[fx.Node]:
    """What is computed or fetched for ``value`` alone; nothing if memory is written to."""
    found = {value}
    for node in reversed(nodes[: nodes.index(total)]):
        readers = [user for user in node.users if not is_check(user)]
        if node.op != "placeholder" and readers and all(user in found for user in readers):
            found.add(node)
    return set() if any(map(writes, found)) else found


def is_check(node: fx.Node) -> bool:
    """Whether a node only insists on something about what it reads."""
    return not node.users and op_name(node).startswith("_assert")


def _nodes_that_depend_on_inputs(nodes: list[fx.Node]) -> set[fx.Node]:
    """Through tensors, and not through their sizes alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        is_size = not isinstance(node.meta.get("val"), (Tensor, tuple, list))
        if node.op == "placeholder" or (
            not is_size and any(source in found for source in node.all_input_nodes)
        ):
            found.add(node)
    return found


def _weights(module: fx.GraphModule, nodes: list[fx.Node] | set[fx.Node] | frozenset[fx.Node]
             ) -> list[str]:  # fmt: skip
    """Names of the matrices and kernels among what is fetched."""
    names = (str(node.target) for node in nodes if node.op == "get_attr")
    return [
        name
        for name in names
        if isinstance(tensor := fetch_tensor(module, name), nn.Parameter) and tensor.dim() > 1
    ]


class _Tensors:
    """Knows under which names each tensor is fetched, and what lies beside it."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._fetches: dict[int, list[fx.Node]] = defaultdict(list)
        self._in_module: dict[str, list[fx.Node]] = defaultdict(list)
        self._id_of: dict[fx.Node, int] = {}
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self._id_of[node] = id(fetch_tensor(module, str(node.target)))
                self._fetches[self._id_of[node]].append(node)
                self._in_module[_owner(node)].append(node)

    def read_by(self, nodes: frozenset[fx.Node]) -> tuple[str, ...]:
        """Names of the tensors that only these read, and of counters that nobody reads."""
        own = [
            node
            for node in self._id_of
            if node in nodes
            and all(one in nodes or not one.users for one in self._fetches[self._id_of[node]])
        ]
        counters = [
            counter
            for owner in dict.fromkeys(map(_owner, own))
            for counter in self._in_module[owner]
            if not counter.users
            and all(one in nodes for one in self._in_module[owner] if one.users)
        ]
        return tuple(dict.fromkeys(str(node.target) for node in (*own, *counters)))


def _owner(fetch: fx.Node) -> str:
    return str(fetch.target).rpartition(".")[0]


def _name(found: _Found, module: fx.GraphModule) -> str:
    """The module that holds all layers of the branch; else where its sum is, or the sum itself."""
    paths = [name.split(".")[:-1] for name in _weights(module, found.nodes)]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or module_path(found.total) or found.total.name


def blocks_hint(graph: UnitGraph) -> str:
    """What ``--blocks`` would add to what can go, where it was not asked for; may be empty."""
    if graph.branches:
        return ""
    branches, _ = branch_groups(graph.module, 0, 0)
    count = sum(not branch.is_first for branch in branches)
    blocks = "1 residual block go" if count == 1 else f"{count} residual blocks go"
    return f"let {blocks} as a whole with --blocks, " if count else ""
