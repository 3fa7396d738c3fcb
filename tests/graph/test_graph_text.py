"""The text of a graph: the same for the same computation, another for another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.graph_text import graph_tensors, graph_text

Step = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """One layer and what follows it."""

    scale: Tensor

    def __init__(self, step: Step, scale: float = 2.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.step = nn.Linear(4, 4), step
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4]."""
        return self.step(self.layer(x)) * self.scale


def text(step: Step) -> str:
    return graph_text(capture(Net(step).eval(), (torch.zeros(2, 4),)).module)


def test_the_same_forward_gives_the_same_text() -> None:
    assert text(torch.relu) == text(torch.relu)


@pytest.mark.parametrize("other", [
    torch.nn.functional.gelu, lambda x: torch.relu(-x), lambda x: torch.relu(x) * 3,
    lambda x: torch.relu(x).double().float(), lambda x: torch.relu(x[:, :3].repeat(1, 2)[:, :4]),
])  # fmt: skip
def test_another_forward_gives_another_text(other: Step) -> None:
    assert text(other) != text(torch.relu)


def test_values_that_no_state_dict_holds_are_among_the_tensors() -> None:
    graphs = [capture(Net(torch.relu, scale).eval(), (torch.zeros(2, 4),)) for scale in (2.0, 3.0)]
    two, three = (graph_tensors(graph.module) for graph in graphs)
    assert "scale" not in Net(torch.relu).state_dict()
    assert (float(two["scale"]), float(three["scale"])) == (2.0, 3.0)
    assert set(two) == {"layer.weight", "layer.bias", "scale"}


def test_the_text_is_the_same_in_another_process() -> None:
    code = "from tests.graph.test_graph_text import text; import torch; print(text(torch.relu))"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert told.rstrip() == text(torch.relu).rstrip()
