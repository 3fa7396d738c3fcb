"""A captured graph without calls that write to their input, guards, or views of a fixed layout."""

from __future__ import annotations

import torch
from torch import fx

from fairdeploy.graph.capture.written_views import FunctionalWrites
from fairdeploy.graph.operators import op_name

aten = torch.ops.aten


def make_functional(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Change ``graph_module`` so that no call writes to its input, where that is known; return it.

    What cannot be said without a write is left alone: no rule knows it, so the unit graph freezes
    what it touches.
    """
    FunctionalWrites(graph_module).run()
    graph = graph_module.graph
    _fill_by_mask(graph)
    _allow_other_strides(graph)
    _drop_guards(graph_module)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _fill_by_mask(graph: fx.Graph) -> None:
    """Turn ``x[mask] = number`` into a call that acts on elements alone."""
    for node in list(graph.nodes):
        if node.op != "call_function" or op_name(node) != "index_put" or len(node.args) != 3:
            continue
        data, indices, value = node.args
        assert isinstance(indices, (list, tuple))
        masks = [index for index in indices if index is not None]
        if len(masks) != 1 or masks[0].meta["val"].dtype != torch.bool or indices[-1] is None:
            continue
        if value.meta["val"].numel() != 1 or value.meta["val"].dim() > 0:
            continue
        mask = masks[0]
        covered = len(indices) - 1 + mask.meta["val"].dim()
        for _ in range(data.meta["val"].dim() - covered):
            with graph.inserting_before(node):
                wider = graph.call_function(aten.unsqueeze.default, (mask, -1))
            wider.meta = {**node.meta, "val": mask.meta["val"].unsqueeze(-1)}
            mask = wider
        node.target, node.args = aten.masked_fill.Tensor, (data, mask, value)


def _allow_other_strides(graph: fx.Graph) -> None:
    """Turn ``view``, which depends on how a kernel lays out memory, into ``reshape``."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target is aten.view.default:
            node.target = aten.reshape.default


def _drop_guards(graph_module: fx.GraphModule) -> None:
    """Remove shape guard calls: they would refuse the shrunk sizes (changes the graph)."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph_module.graph.erase_node(node)
