"""Networks whose answer for an image hangs on more than the image: each is refused by name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairdeploy.cli.app import main
from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.steadiness import require_steady

Change = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution and a classifier, with ``change`` applied to the features between them."""

    seen: Tensor

    def __init__(self, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)
        self.change = change
        self.calls = 0
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 4]."""
        return self.head(self.change(self, torch.relu(self.conv(x)).mean((2, 3))))


FORWARD = f"{Path(__file__).name}:{Net.forward.__code__.co_firstlineno + 2}"
"""Of calls in the graph torch keeps the line of the innermost forward."""


def counted(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return x * net.calls


def kept(net: Net, x: Tensor) -> Tensor:
    net.seen.mul_(0.9).add_(x.detach().mean(0))
    return x + net.seen


def check(change: Change, fixed_batch: int | None = None) -> None:
    net = Net(change).eval()
    graph = build_unit_graph(net, model_inputs(net, (), (3, 8, 8), fixed_batch))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calls = net.calls
    try:
        require_steady(net, graph)
    finally:
        assert net.calls == calls
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name]), name


CHANCE: tuple[tuple[Change, str], ...] = (
    (lambda _, x: F.dropout(x, 0.3), "'dropout'"),
    (lambda _, x: x + torch.randn_like(x), "'randn_like'"),
    (lambda _, x: x * random.random(), "random numbers of Python or NumPy"),
    (lambda _, x: x + torch.tensor(np.random.randn(8).astype("float32")), "Python or NumPy"),
    (lambda _, x: x * (time.perf_counter_ns() % 1009), "depends on the time"),
)


@pytest.mark.parametrize(("change", "told"), CHANCE)
def test_chance_in_the_forward_is_named_with_its_line(change: Change, told: str) -> None:
    with pytest.raises(ModelError, match="other answers at each call") as caught:
        check(change)
    assert told in str(caught.value)
    here = f"{Path(__file__).name}:{change.__code__.co_firstlineno}"
    assert here in str(caught.value) or FORWARD in str(caught.value)


@pytest.mark.parametrize("change", [counted, kept])
def test_what_earlier_calls_left_behind_is_named(change: Change) -> None:
    with pytest.raises(ModelError, match=r"'(mul|add)' at .*test_steadiness.py:\d+ .*counter or a"):
        check(change)


MIXING: tuple[tuple[Change, str], ...] = (
    (lambda _, x: F.batch_norm(x, None, None, training=True), "batch_norm"),
    (lambda _, x: torch.softmax(x, 0), "softmax"),
    (lambda _, x: x - x.mean(0), "mean"),
    (lambda _, x: x / x.abs().max(), "max"),
    (lambda _, x: x.cumsum(0), "cumsum"),
    (lambda _, x: x + x.roll(1, 0), "roll"),
    (lambda _, x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0], "attention"),
)


@pytest.mark.parametrize(("change", "told"), MIXING)
@pytest.mark.parametrize("fixed_batch", [None, 4])
def test_an_operator_that_mixes_images_is_named_with_its_line(
    change: Change, told: str, fixed_batch: int | None
) -> None:
    with pytest.raises(ModelError, match="depends on the others in its batch") as caught:
        check(change, fixed_batch)
    assert told in str(caught.value)
    assert FORWARD in str(caught.value)


def test_division_by_the_number_of_images_is_named() -> None:
    with pytest.raises(ModelError, match="'div' at"):
        check(lambda _, x: x / x.shape[0])


@pytest.mark.parametrize("norm", [
    nn.BatchNorm1d(8, track_running_stats=False),
    type("Forced", (nn.BatchNorm1d,), {"train": lambda self, mode=True: nn.Module.train(self)})(8),
])  # fmt: skip
def test_a_norm_with_the_batchs_statistics_is_named_by_its_module(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), norm, nn.Flatten(), nn.Linear(288, 3))
    graph = build_unit_graph(net.eval(), (torch.zeros(2, 3, 8, 8),))
    with pytest.raises(ModelError, match=r"'batch_norm' in module '2'.*running statistics"):
        require_steady(net, graph)


def test_code_that_runs_otherwise_while_traced_is_told() -> None:
    with pytest.raises(ModelError, match=r"as torch.export traces it differs from the model"):
        check(lambda _, x: x * 2 if torch.compiler.is_exporting() else x)


class TwoHeads(nn.Module):
    """A steady main output, a side output that mixes images, and a constant."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.conv, self.head, self.mixes = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), mixes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Three outputs."""
        x = self.conv(x).mean((2, 3))
        side = x - x.mean(0, keepdim=True) if self.mixes else x
        return {"main": self.head(x), "side": side, "share": x.sum()}


@pytest.mark.parametrize("mixes", [True, False])
def test_every_output_with_images_in_it_is_checked(mixes: bool) -> None:
    net = TwoHeads(mixes).eval()
    graph = build_unit_graph(net, (torch.zeros(2, 3, 8, 8),))
    if not mixes:
        return require_steady(net, graph)
    with pytest.raises(ModelError, match="'mean' at"):
        require_steady(net, graph)
    return None


HONEST: tuple[Change, ...] = (
    lambda _, x: x,
    lambda _, x: F.layer_norm(x, (8,)),
    lambda _, x: x[torch.arange(len(x)).flip(0)].flip(0),
    lambda _, x: x.reshape(-1, 2, 4).transpose(0, 1).cumsum(0).transpose(0, 1).flatten(1),
    lambda _, x: x * 1e-30,
    lambda _, x: torch.log(x - 0.2),
)


@pytest.mark.parametrize("change", HONEST)
@pytest.mark.parametrize("fixed_batch", [None, 1, 2])
def test_honest_networks_pass(change: Change, fixed_batch: int | None) -> None:
    check(change, fixed_batch)


def test_a_network_that_magnifies_rounding_passes() -> None:
    # float32 leaves differences of whole percents between batch sizes here; float64 does not
    def magnified(_: Net, x: Tensor) -> Tensor:
        rounded = x @ torch.linspace(-1, 1, 512).repeat(8, 1) @ torch.ones(512, 8)
        return torch.sin(1e4 * (rounded + x))

    check(magnified)


@pytest.mark.parametrize("command", [
    ("inspect", "--prove"),
    ("shrink", "--budget", "50%", "--no-latency", "-o", "out"),
    ("sweep", "--no-latency", "-o", "out"),
])  # fmt: skip
def test_the_command_line_ends_in_one_line_before_anything_is_scored(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\nfrom torch.nn import functional as F\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)\n\n"
        "    def forward(self, x):\n"
        "        return self.head(F.dropout(self.conv(x).mean((2, 3)), 0.3))\n"
    )
    torch.save(
        {"conv.weight": torch.randn(16, 3, 3, 3), "conv.bias": torch.zeros(16),
         "head.weight": torch.randn(4, 16), "head.bias": torch.zeros(4)},
        "net.pt",
    )  # fmt: skip
    name, *rest = command
    monkeypatch.setattr(
        "sys.argv",
        ["fairdeploy", name, "net.pt", "--arch", "net.py:Net", "--input-size", "8", *rest],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "error: the same images get other answers at each call: 'dropout' at" in told
    assert "net.py:10" in told
    assert "report it" not in told
    assert "score units" not in told
