"""Outputs keep their nest, get names, and one of them is scored."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.graph.capture.capture import capture
from fairdeploy.tasks.base import pooled

EXAMPLE = (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(2 * x)


NESTS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...], Any]] = {
    "tensor": (lambda y: y, ("output",), "y"),
    "list of one": (lambda y: [y], ("output",), ["y"]),
    "tuple": (lambda y: (y, y + 1), ("output_0", "output_1"), ("y", "z")),
    "dictionary": (lambda y: {"z": y + 1, "y": y}, ("z", "y"), {"z": "z", "y": "y"}),
    "ordered": (
        lambda y: OrderedDict(out=y, aux=y + 1),
        ("out", "aux"),
        OrderedDict(out="y", aux="z"),
    ),
    "nest": (
        lambda y: {"a.b": (y, [y + 1, None]), "c": {"d": y}},
        ("a_b_0", "a_b_1_0", "c_d"),
        {"a.b": ("y", ["z", None]), "c": {"d": "y"}},
    ),
    "named tuple": (lambda y: Pair(y, y + 1), ("left", "right"), {"left": "y", "right": "z"}),
    "dataclass": (lambda y: Found(y, y + 1), ("boxes", "scores"), {"boxes": "y", "scores": "z"}),
    "dataclasses in a list": (
        lambda y: [Found(y, y + 1)],
        ("output_0_boxes", "output_0_scores"),
        [{"boxes": "y", "scores": "z"}],
    ),
    "clashing names": (
        lambda y: {"a": (y,), "a_0": y},
        ("a_0", "a_0_2"),
        {"a": ("y",), "a_0": "y"},
    ),
}


def replaced(nest: Any, y: Tensor) -> Any:
    """The nest with tensors in place of letters."""
    if isinstance(nest, str):
        return y if nest == "y" else y + 1
    if isinstance(nest, dict):
        return type(nest)((key, replaced(value, y)) for key, value in nest.items())
    if isinstance(nest, (list, tuple)):
        return type(nest)(replaced(value, y) for value in nest)
    return nest


@pytest.mark.parametrize("kind", NESTS)
def test_captured_graph_returns_a_plain_nest_with_named_tensors(kind: str) -> None:
    make, names, nest = NESTS[kind]
    captured = capture(Returns(make), EXAMPLE)
    assert captured.outputs.names == names
    assert captured.has_dynamic_batch
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    found, expected = captured.module(x), replaced(nest, 2 * x)
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected)


def test_main_output_is_the_first_of_floating_point_or_the_named_one() -> None:
    module = Returns(lambda y: {"count": y.long(), "loss": y.mean(), "scores": y, "more": y + 1})
    by_default = capture(module, EXAMPLE).outputs
    assert by_default.names[by_default.main] == "scores", "a whole number and a scalar come first"
    named = capture(module, EXAMPLE, "more").outputs
    assert named.names[named.main] == "more"
    output = module(EXAMPLE[0])
    torch.testing.assert_close(named.main_tensor(output), output["more"])
    with pytest.raises(
        UsageError, match="no floating-point output 'count'; use one of scores, more"
    ):
        capture(module, EXAMPLE, "count")


def test_network_without_scores_is_refused() -> None:
    with pytest.raises(ModelError, match="no tensor of floating-point scores"):
        capture(Returns(lambda y: y.argmax(1)), EXAMPLE)


def test_pooled_maps_are_their_means() -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert pooled(maps).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    assert pooled(torch.ones(4)).shape == (4, 1)
