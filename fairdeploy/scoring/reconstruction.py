"""R-Score: what the loss would lose, to first order, if a unit went (arXiv 2508.02291).

``|sum of theta * dL/dtheta|`` over every parameter entry that the unit produces, summed with sign
over batches and tensors and made absolute last.

For a convolution or linear layer ``y = W x + b`` no weight gradient is needed: by linearity
``sum over row c of (W * dL/dW) + b_c * dL/db_c = sum over images and positions of y_c * dL/dy_c``.
That leaves out a third of the backward pass. All other parameters use their gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.graph.operators import kind_of, op_name, row_of
from fairdeploy.graph.unit_graph import Group, UnitGraph
from fairdeploy.scoring.folding import FoldedLayer, folded_layers


class GradientProducts:
    """Gathers ``theta * dL/dtheta`` of all produced tensors over the batches of one pass."""

    def __init__(self, graph: UnitGraph) -> None:
        self._produced = produced_dims(graph)
        self._layers = _row_layers(graph.module, self._produced)
        by_rows = {name for names in self._layers.values() for name in names[1:]}
        self.folded = _folded_layers(graph.module, self._layers, self._produced)
        for layer in self.folded.values():
            by_rows |= {layer.gamma_name, layer.beta_name}
        self._tensors = _detached_tensors(graph.module, self._produced.keys() - by_rows)
        self._rows: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor | None:
        """What the pass computes with in place of the graph's own tensor."""
        return self._tensors.get(name)

    def is_layer(self, node_name: str) -> bool:
        """Whether this node's output stands for the gradients of its weight and bias."""
        return node_name in self._layers

    def watch(self, node_name: str, output: Tensor) -> Tensor:
        """Add ``output * gradient`` per channel once the backward pass arrives; returns it."""
        op, weight, *_ = self._layers[node_name]
        channel_dim = output.dim() - 1 - row_of(op).num_spatial
        others = [dim for dim in range(output.dim()) if dim != channel_dim]
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        value = output.detach()

        def total(product: Tensor) -> Tensor:
            return (product.sum(others) if others else product).double()

        def add(gradient: Tensor) -> None:
            rows = {weight: total(value * gradient)}
            if node_name in self.folded:
                rows = self.folded[node_name].products(rows[weight], total(gradient))
            for name, row in rows.items():
                self._rows[name] = self._rows[name] + row if name in self._rows else row

        output.register_hook(add)  # type: ignore[no-untyped-call]
        return output

    def result(self, num_images: int) -> Mapping[tuple[str, int], Tensor]:
        """By tensor and produced dimension, float64 [n], for the mean loss of the images.

        A layer's weight carries its bias's share; a tensor that no loss reaches is left out.
        """
        products = {(name, 0): rows / num_images for name, rows in self._rows.items()}
        seen: set[tuple[int, int]] = set()
        for name, dims in self._produced.items():
            tensor = self._tensors.get(name)
            if tensor is None or tensor.grad is None:
                continue
            product = tensor.detach() * tensor.grad
            for dim in dims:
                if (id(tensor), dim) in seen:  # one tensor under two names counts once
                    continue
                seen.add((id(tensor), dim))
                others = [other for other in range(product.dim()) if other != dim]
                total = (product.sum(others) if others else product).double()
                products[name, dim] = total / num_images
        return {key: value.cpu() for key, value in products.items()}


def r_scores(graph: UnitGraph, products: Mapping[tuple[str, int], Tensor]) -> NDArray[np.float64]:
    """R of every unit, float64 [num_units]: signed sum over its members, absolute value last."""
    scores = np.zeros(graph.num_units, dtype=np.float64)
    for group in graph.groups:
        scores[group.units] += _signed_sum(group, products)
    return np.abs(scores)


def _signed_sum(group: Group, products: Mapping[tuple[str, int], Tensor]) -> NDArray[np.float64]:
    total = np.zeros(group.blocks.size, dtype=np.float64)
    for member in group.members:
        product = products.get((member.tensor, member.dim))
        if member.role == "produces" and product is not None:
            total[member.units] += product.numpy()[member.positions].sum(axis=1)
    return total


def produced_dims(graph: UnitGraph) -> dict[str, tuple[int, ...]]:
    """Per tensor, the dimensions in which units produce their output."""
    dims: dict[str, set[int]] = {}
    for group in graph.groups:
        for member in group.members:
            if member.role == "produces":
                dims.setdefault(member.tensor, set()).add(member.dim)
    return {name: tuple(sorted(found)) for name, found in dims.items()}


def _row_layers(
    module: fx.GraphModule, produced: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, ...]]:
    """Layers by node name: operator, weight, and bias if any, whose outputs stand for both.

    Both must be read by such layers only, always in the same role, and be produced in rows.
    """
    layers: dict[str, tuple[str, ...]] = {}
    for node in module.graph.nodes:
        parameters = [arg for arg in node.args[1:3] if arg is not None]
        if kind_of(node) != "layer" or node.kwargs:
            continue
        names = [str(arg.target) for arg in parameters if _is_only_weight(arg, node, produced)]
        if names and len(names) == len(parameters) and produced.get(names[0]) == (0,):
            layers[node.name] = (op_name(node), *names)
    return _with_unshared_names(layers, module)


def _is_only_weight(
    source: object, layer: fx.Node, produced: Mapping[str, tuple[int, ...]]
) -> bool:
    if not isinstance(source, fx.Node) or source.op != "get_attr" or list(source.users) != [layer]:
        return False
    return layer.args[0] is not source and produced.get(str(source.target), (0,)) == (0,)


def _with_unshared_names(
    layers: dict[str, tuple[str, ...]], module: fx.GraphModule
) -> dict[str, tuple[str, ...]]:
    """Drop layers whose tensors are fetched a second time, under this or another name."""
    unshared = _names_fetched_once(module)
    return {node: names for node, names in layers.items() if unshared.issuperset(names[1:])}


def _names_fetched_once(module: fx.GraphModule) -> set[str]:
    """Tensors that one ``get_attr`` node fetches and no other, by any name."""
    names = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
    num_fetches = Counter(id(_attribute(module, name)) for name in names)
    return {name for name in names if num_fetches[id(_attribute(module, name))] == 1}


def _folded_layers(
    module: fx.GraphModule,
    layers: Mapping[str, tuple[str, ...]],
    produced: Mapping[str, tuple[int, ...]],
) -> dict[str, FoldedLayer]:
    fetched_once = _names_fetched_once(module)
    num_users = {
        str(node.target): len(node.users) for node in module.graph.nodes if node.op == "get_attr"
    }

    def tensor(name: str) -> Tensor:
        found = _attribute(module, name)
        assert isinstance(found, Tensor)
        return found

    def is_foldable(name: str) -> bool:
        return name in fetched_once and num_users[name] == 1 and produced.get(name) == (0,)

    return folded_layers(layers, module, tensor, is_foldable)


def _detached_tensors(module: fx.GraphModule, with_gradient: set[str]) -> dict[str, Tensor]:
    """A leaf per parameter that shares its storage; buffers are cloned against in-place writes."""
    leaves: dict[int, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    targets = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in sorted(targets):
        original = _attribute(module, name)
        if not isinstance(original, Tensor):
            continue
        is_parameter = isinstance(original, torch.nn.Parameter)
        if id(original) not in leaves:
            copied = original.detach()
            leaves[id(original)] = copied if is_parameter else copied.clone()
        tensors[name] = leaves[id(original)]
        if is_parameter and name in with_gradient and original.is_floating_point():
            tensors[name].requires_grad_()
    return tensors


def _attribute(module: fx.GraphModule, name: str) -> object:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)
