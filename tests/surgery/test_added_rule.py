"""An operator that fairdeploy has never heard of is pruned through with one file: rule and rewrite.

The file below is all that has to be added; in the package it would lie in ``graph/walk/rules``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.graph.walk.propagation import Propagation, Value
from fairdeploy.graph.walk.rewriter import Rewriter
from fairdeploy.graph.walk.rules import registry
from fairdeploy.graph.walk.rules.registry import rewrite, rule
from tests.surgery.exactness import shrink_exactly


@torch.library.custom_op("made_up::blend", mutates_args=())
def blend(data: Tensor, gain: Tensor, num_channels: int) -> Tensor:
    """Scale each channel by its gain; insists on the number of channels."""
    assert data.shape[1] == num_channels
    return data * gain.reshape(1, num_channels, 1, 1)


@blend.register_fake
def _(data: Tensor, gain: Tensor, num_channels: int) -> Tensor:
    return torch.empty_like(data)


@pytest.fixture
def known() -> Iterator[None]:
    """The operator's family: channels of the data and gains go together, and so does the number."""

    @rule("blend")
    def blended(walk: Propagation, node: fx.Node) -> Value:
        dims = walk.dims(node.args[0])
        walk.tie(dims[1], walk.dims(node.args[1])[0])
        return dims

    @rewrite("blend")
    def rewrite_blend(rewriter: Rewriter, original: fx.Node, node: fx.Node) -> None:
        node.update_arg(2, rewriter.kept(original.args[0], 1))

    yield
    del registry._RULES["blend"], registry._REWRITES["blend"]


class Blended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, image: Tensor) -> Tensor:
        return self.last(torch.relu(blend(self.first(image), self.gain, 8)))


def test_operator_without_a_rule_holds_its_channels() -> None:
    graph = build_unit_graph(Blended().eval(), (torch.zeros(2, 3, 8, 8),))
    assert not graph.groups
    assert [event.op for event in graph.freezes if event.is_unknown_op] == ["blend"]


@pytest.mark.usefixtures("known")
def test_operator_with_a_rule_and_a_rewrite_is_pruned_exactly() -> None:
    shrunk = shrink_exactly(Blended(), torch.zeros(2, 3, 8, 8))
    assert shrunk.group_sizes() == {"first": 8}
    assert shrunk.shape("gain") == (4,)
    (call,) = (node for node in shrunk.module.graph.nodes if "blend" in str(node.target))
    assert call.args[2] == np.count_nonzero(~shrunk.removed)
