"""Whatever a forward keeps, a module is as it was after it was captured and rebuilt."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.capture.kept_state import unchanged
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import randomise
from tests.surgery.exactness import random_removal

MEMORY: dict[str, Tensor] = {}


@functools.lru_cache
def ramp(length: int) -> Tensor:
    return torch.linspace(0.0, 1.0, length)


class Notes:
    """An object that is no module and keeps what it is given."""

    def __init__(self) -> None:
        self.last: Tensor | None = None


class Keeper(nn.Module):
    """Keeps what it computes in one way."""

    anchors: Any = None
    strides: Tensor
    steps: Tensor
    shared: list[Tensor] = []  # noqa: RUF012

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.grid, self.count = torch.empty(0), 0
        self.none: Tensor | None = None
        self.shape: tuple[int, ...] | None = None
        self.listed: list[Tensor] = []
        self.nested: dict[str, Any] = {"a": [torch.zeros(1)], "b": (torch.ones(1),)}
        self.recent: deque[Tensor] = deque(maxlen=2)
        self.seen: set[int] = set()
        self.notes = Notes()
        self.inner = nn.Module()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("grown", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape[-2:])
        if self.way == "tensor":
            if self.grid.shape != grid.shape:
                self.grid = grid
            grid = self.grid
        elif self.way == "none":
            self.none = grid if self.none is None else self.none
            grid = self.none
        elif self.way == "several":
            if self.shape != x.shape:
                self.anchors, self.strides = (part * 1 for part in (grid, grid + 1))
                self.shape = x.shape
            grid = self.anchors + self.strides
        elif self.way == "list":
            self.listed.append(x)
        elif self.way == "nested":
            self.nested["a"].append(x)
            self.nested["c"] = x
        elif self.way == "queue":
            self.recent.append(x)
        elif self.way == "counter":
            self.count += 1
            self.seen.add(self.count)
        elif self.way == "buffer":
            self.steps = self.steps + 1
            self.steps += 1
        elif self.way == "longer buffer":
            self.grown = grid
        elif self.way == "new buffer":
            self.register_buffer("late", grid, persistent=False)
        elif self.way == "inner module":
            self.inner.kept = x
        elif self.way == "object":
            self.notes.last = x
        elif self.way == "class":
            Keeper.anchors = x
            self.shared.append(x)
        elif self.way == "file":
            MEMORY["grid"] = grid
        elif self.way == "memory":
            grid = grid * ramp(x.shape[-1])
        return x + grid


WAYS = (
    "tensor", "none", "several", "list", "nested", "queue", "counter", "buffer", "longer buffer",
    "new buffer", "inner module", "object", "class", "file", "memory",
)  # fmt: skip


class Network(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.keeper = Keeper(way)

    def forward(self, x: Tensor) -> Tensor:
        return self.keeper(self.b(self.a(x).relu())).mean((2, 3))


def picture(value: object) -> object:
    """Everything that a thing holds, in a form that compares."""
    if isinstance(value, Tensor):
        return (type(value).__name__, tuple(value.shape), value.tolist())
    if isinstance(value, (dict, nn.Module, Notes)):
        table = value if isinstance(value, dict) else vars(value)
        return {key: picture(item) for key, item in table.items()}
    if isinstance(value, (list, tuple, deque)):
        return [picture(item) for item in value]
    return repr(value) if callable(value) else value


def everything(network: nn.Module) -> object:
    kept = {key: value for key, value in vars(Keeper).items() if not key.startswith("__")}
    return picture(network), picture(kept), picture(MEMORY), ramp.cache_info().currsize


@pytest.mark.parametrize("way", WAYS)
def test_a_captured_and_rebuilt_module_is_as_it_was(way: str) -> None:
    network = randomise(Network(way), 3)
    before = everything(network)
    graph = build_unit_graph(network, (torch.zeros(2, 3, 6, 6),))
    assert everything(network) == before
    removed = random_removal(graph, 0, 0.5)
    shrunk = remove_units(graph, removed).module
    small, problem = rebuild_own_class(network, graph, shrunk)
    assert everything(network) == before
    assert small is not None, problem
    x = torch.randn(3, 3, 6, 6)
    with unchanged(network), torch.no_grad():
        for module in (copy.deepcopy(network), copy.deepcopy(small)):
            assert module(x).shape == (3, 4)
        assert torch.allclose(graph.module(x), network(x), atol=1e-5)
    assert everything(network) == before


def test_what_an_earlier_run_left_stays_too() -> None:
    network = randomise(Network("several"), 3)
    network(torch.zeros(1, 3, 6, 6))
    before = everything(network)
    graph = build_unit_graph(network, (torch.zeros(2, 3, 6, 6),))
    shrunk = remove_units(graph, random_removal(graph, 0, 0.5)).module
    small, problem = rebuild_own_class(network, graph, shrunk)
    assert small is not None, problem
    assert everything(network) == before


def test_a_tensor_that_is_kept_of_a_run_with_gradients_does_not_hinder_the_copy() -> None:
    network = randomise(Network("list"), 3)
    network(torch.zeros(1, 3, 6, 6))
    assert vars(network.get_submodule("keeper"))["listed"][0].grad_fn is not None
    graph = build_unit_graph(network, (torch.zeros(2, 3, 6, 6),))
    shrunk = remove_units(graph, random_removal(graph, 0, 0.5)).module
    small, problem = rebuild_own_class(network, graph, shrunk)
    assert small is not None, problem


def test_a_refused_module_is_as_it_was() -> None:
    class Refused(Network):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y if float(y.sum()) > 0 else -y

    network = randomise(Refused("list"), 3)
    before = everything(network)
    with pytest.raises(Exception, match="cannot trace"):
        capture(network, (torch.zeros(2, 3, 6, 6),))
    assert everything(network) == before


class Contrary(OrderedDict[str, Any]):
    """Answers otherwise than what it holds, as a table that makes modules of what it is asked."""

    def __getitem__(self, key: str) -> Any:
        raise TypeError("no table")

    __iter__ = items = values = __getitem__  # type: ignore[assignment]


class ContraryList(list[int]):
    def __iter__(self) -> Any:
        raise TypeError("no list")


def test_tables_that_answer_otherwise_than_they_hold_come_back() -> None:
    network = nn.Linear(2, 2)
    table, rows = Contrary(a=1, b=2), ContraryList([1, 2])
    network.kept = [table, rows]  # type: ignore[assignment]
    with unchanged(network):
        OrderedDict.__setitem__(table, "c", 3)
        OrderedDict.move_to_end(table, "a")
        rows.append(3)
    assert list(OrderedDict.items(table)) == [("a", 1), ("b", 2)]
    assert list.__len__(rows) == 2
