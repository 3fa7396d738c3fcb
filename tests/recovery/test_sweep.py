from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.recovery.least_squares.sweep import NetworkSweep, ValueStore, chunks_of_images


class Branching(nn.Module):
    """A residual, a split into a tuple of views, and a size that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        left, right = (x + self.second(x).relu()).split(2, dim=1)
        return (left * right).reshape(x.size(0), -1)


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> tuple[torch.fx.GraphModule, nn.Module]:
    torch.manual_seed(0)
    module = Branching().eval()
    return build_unit_graph(module, (images(2),)).module, module


@pytest.mark.parametrize("max_memory_bytes", [0, 3000, 10**9])
def test_stretches_give_what_the_whole_network_gives(max_memory_bytes: int) -> None:
    graph_module, module = network()
    chunks = chunks_of_images(graph_module, images(), 2)
    output = next(n for n in graph_module.graph.nodes if n.op == "output").all_input_nodes[0].name
    with torch.no_grad(), ValueStore(max_memory_bytes) as store:
        sweep = NetworkSweep("n", graph_module, chunks, store, {output: 10**6})
        for end in range(1, sweep.position_of(output) + 2):
            sweep.advance(end, end)
        result = torch.cat([sweep.value(output, chunk) for chunk in range(3)])
        torch.testing.assert_close(result, module(images()))


def test_values_are_dropped_after_their_last_reader_unless_pinned() -> None:
    graph_module, _ = network()
    chunks = chunks_of_images(graph_module, images(), 5)
    with torch.no_grad(), ValueStore(10**9) as store:
        sweep = NetworkSweep("n", graph_module, chunks, store, {"relu": 2})
        sweep.advance(sweep.position_of("add") + 1, 2)
        assert sweep.value("relu", 0).shape == (5, 4, 6, 6)
        with pytest.raises(KeyError):
            sweep.value("conv2d", 0)
        sweep.advance(sweep.position_of("add") + 1, 3)
        with pytest.raises(KeyError):
            sweep.value("relu", 0)
        assert sweep.value("add", 0).shape == (5, 4, 6, 6)


def test_overflow_goes_to_files_that_disappear_even_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    value = torch.arange(10.0)

    def use_and_fail(store: ValueStore) -> None:
        store.put(("n", "a", 0), (value, 7))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 40
        loaded, number = store.get(("n", "a", 0))
        assert torch.equal(loaded, value)
        assert number == 7
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"), ValueStore(0) as store:
        use_and_fail(store)
    assert list(tmp_path.iterdir()) == []


def test_a_dropped_value_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ValueStore(0) as store:
        store.put(("n", "a", 0), torch.ones(3))
        store.drop(("n", "a", 0))
        store.drop(("n", "never put", 0))
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_small_view_does_not_keep_its_large_tensor_alive() -> None:
    large = torch.zeros(1000)
    with ValueStore(10**9) as store:
        store.put(("n", "a", 0), large[:10])
        assert store.get(("n", "a", 0)).untyped_storage().nbytes() == 40


def test_a_network_of_fixed_batch_gets_only_whole_batches() -> None:
    program = torch.export.export(Branching().eval(), (images(2),))
    module = program.module(check_guards=False)
    assert isinstance(module, torch.fx.GraphModule)
    assert [len(c) for (c,) in chunks_of_images(module, images(5), 64)] == [2, 2]
    dynamic, _ = network()
    assert [len(c) for (c,) in chunks_of_images(dynamic, images(5), 3)] == [3, 2]
