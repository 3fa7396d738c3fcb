"""Cuts a network into blocks: stretches between values that everything later depends on alone.

Where a single value is alive (the end of a residual block, the output of a stage), original and
shrunk network can be compared, and what comes before can be trained apart from what comes after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fairdeploy.graph.batch_dimension import batch_dimensions
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.recovery.least_squares.sweep import attribute


@dataclass(frozen=True, slots=True)
class Cut:
    """A value that both networks have. Node names hold in both."""

    node: str
    kept: tuple[Tensor | None, ...]
    """Per dimension, which indices of the original's value the shrunk network still has; None:
    all."""
    batch_dim: int
    """The dimension of the images."""

    def kept_part(self, value: Tensor) -> Tensor:
        """The part of the original's value that the shrunk network should give."""
        for dim, indices in enumerate(self.kept):
            if indices is not None:
                value = value.index_select(dim, indices.to(value.device))
        return value


def input_names(module: fx.GraphModule) -> tuple[str, ...]:
    """Names of the nodes that stand for the inputs, in order."""
    return tuple(node.name for node in module.graph.nodes if node.op == "placeholder")


def find_cuts(
    graph: UnitGraph, shrunk: fx.GraphModule, removed: NDArray[np.bool_]
) -> tuple[Cut, ...]:
    """Where to compare the networks, in the order of execution; the last is the main output.

    Args:
        graph: Of the original.
        shrunk: The network without the removed units; same node names.
        removed: Which units went, bool [num_units].
    """
    main = main_output(shrunk, graph.outputs.main)
    stays = graph.staying(removed)
    numbers = _layer_numbers(shrunk)
    best: dict[int, Cut] = {}
    for node in _bottlenecks(graph, shrunk):
        cut = _cut_at(node, graph, stays)
        if cut is None or node is main or numbers[node] == 0:
            continue
        # Of values without a layer in between the largest says most; of equals the last.
        first = best.get(numbers[node])
        if first is None or _numel(graph, cut.node) >= _numel(graph, first.node):
            best[numbers[node]] = cut
    last = _cut_at(main, graph, stays)
    return (*best.values(), *(() if last is None else (last,)))


def stretch(
    module: fx.GraphModule, sources: Sequence[str], targets: Sequence[str], batch_dim: int = 0
) -> fx.GraphModule:
    """What leads from some values to others, as a network of its own on the same tensors.

    Args:
        module: Its parameters and buffers are shared, not copied.
        sources: Names of the nodes whose values become the inputs, in this order.
        targets: Names of the nodes whose values are returned, as a tuple.
        batch_dim: Where the images lie in the last of these, which is returned with images first.
    """
    by_name = {node.name: node for node in module.graph.nodes}
    needed = _needed(by_name, sources, targets)
    graph = fx.Graph()
    copies = {by_name[name]: graph.placeholder(name) for name in sources}
    for node in module.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, lambda used: copies[used])
    ends = [copies[by_name[name]] for name in targets]
    if batch_dim:
        ends[-1] = graph.call_function(torch.ops.aten.movedim.int, (ends[-1], batch_dim, 0))
    graph.output(tuple(ends))
    return fx.GraphModule(module, graph)


def main_output(module: fx.GraphModule, place: int) -> fx.Node:
    """The node of the output that is scored; ``place`` among the tensors that are returned."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node)]
    tensors = [leaf for leaf in leaves if isinstance(leaf.meta.get("val"), Tensor)]
    return (tensors or leaves)[place]


def _needed(
    by_name: dict[str, fx.Node], sources: Sequence[str], targets: Sequence[str]
) -> set[fx.Node]:
    """Everything that the targets are computed from, up to the sources."""
    ends = {by_name[name] for name in sources}
    found: set[fx.Node] = set()
    waiting = [by_name[name] for name in targets]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node not in ends:
                waiting.extend(node.all_input_nodes)
    return found


def _bottlenecks(graph: UnitGraph, module: fx.GraphModule) -> list[fx.Node]:
    """Values that stand alone: whatever is computed later needs nothing else computed earlier.

    Inputs, parameters, and sizes that follow from them do not count: they are at hand anywhere.
    """
    nodes = list(module.graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    at_hand: set[fx.Node] = set()
    alive: set[fx.Node] = set()
    found = []
    for index, node in enumerate(nodes):
        is_tensor = node.name in graph.value_units or isinstance(node.meta.get("val"), Tensor)
        if node.op in ("placeholder", "get_attr") or (
            not is_tensor and all(used in at_hand for used in node.all_input_nodes)
        ):
            at_hand.add(node)
        else:
            alive.add(node)
        alive = {one for one in alive if any(place[user] > index for user in one.users)}
        if alive == {node} and is_tensor:
            found.append(node)
    return found


def _layer_numbers(module: fx.GraphModule) -> dict[fx.Node, int]:
    """How many layers with weights come up to and with each node."""
    numbers, count = {}, 0
    for node in module.graph.nodes:
        count += any(_is_weight(module, used) for used in node.all_input_nodes)
        numbers[node] = count
    return numbers


def _is_weight(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "get_attr":
        return False
    value = attribute(module, str(node.target))
    return isinstance(value, torch.nn.Parameter) and value.dim() > 1


def _cut_at(node: fx.Node, graph: UnitGraph, stays: NDArray[np.bool_]) -> Cut | None:
    """None where the original has no such value, or no images in it, or blocks differ."""
    dims, batch = graph.value_units.get(node.name), batch_dimensions(graph).get(node.name)
    if not dims or batch is None:
        return None
    masks = [stays[units] for units in dims]
    if any(mask.ndim > 1 and not mask.all() for mask in masks):
        return None
    return Cut(
        node.name,
        tuple(None if mask.all() else torch.from_numpy(np.flatnonzero(mask)) for mask in masks),
        batch.dim,
    )


def _numel(graph: UnitGraph, node: str) -> int:
    return math.prod(graph.shape_of(node))
