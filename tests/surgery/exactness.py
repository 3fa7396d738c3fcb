"""Shrink a small network, prove it, and check what came out by other means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.removal import remove_units


@dataclass(frozen=True)
class Shrunk:
    """A proved shrunk network and what it was made from."""

    graph: UnitGraph
    module: fx.GraphModule
    removed: np.ndarray

    def group_sizes(self) -> dict[str, int]:
        return {group.name: group.size for group in self.graph.groups}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.module.state_dict()[name].shape)


def random_removal(graph: UnitGraph, seed: int, share: float) -> np.ndarray:
    """Remove about ``share`` of each group's units, as many from each block, never all."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(graph.num_units, dtype=bool)
    for group in graph.groups:
        count = min(group.size - 1, round(group.size * share))
        for block in group.blocks:
            removed[rng.choice(block, count, replace=False)] = True
    return removed


def shrink_exactly(
    network: nn.Module, *inputs: Tensor, share: float = 0.5, allow_norm_coupled: bool = False
) -> Shrunk:
    """Give the network random tensors, remove half of each group, and insist on the proof."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                low = 0.5 if "var" in name else -0.5
                buffer.uniform_(low, low + 1.0, generator=generator)
    graph = build_unit_graph(network.eval(), inputs, allow_norm_coupled=allow_norm_coupled)
    removed = random_removal(graph, seed=1, share=share)
    assert removed.any(), [group.reason for group in graph.frozen_groups]
    shrunk = remove_units(graph, removed)
    result = prove(graph, shrunk.module, removed)
    assert result.passed, result
    before = sum(parameter.numel() for parameter in graph.module.parameters())
    after = sum(parameter.numel() for parameter in shrunk.module.parameters())
    assert after < before
    with torch.no_grad():
        batch = tuple(
            torch.randn(example.shape, generator=generator)
            if example.is_floating_point()
            else example
            for example in inputs
        )
        scale = float(graph.module(*batch).abs().max())
    assert scale > 1e-3, "the network says nothing"
    return Shrunk(graph, shrunk.module, removed)
