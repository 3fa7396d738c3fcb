"""The commands as Python calls: on live networks and data, which stay as they were."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.data import DataLoader, TensorDataset

import fairdeploy
from fairdeploy.errors import DataError, FairdeployError, ModelError, UsageError

README = Path(__file__).parents[2] / "README.md"
IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {
    "latency": False, "recover": "none", "num_calibration": 32, "round_to": 1, "seed": 0,
}  # fmt: skip


class Net(nn.Module):
    """Two convolutions with norms, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(image)))
        return self.head(torch.relu(self.second(hidden)).mean((2, 3)))


class Scaled(Net):
    """Takes a second input."""

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image) * scale[:, None]


@pytest.fixture
def network() -> Net:
    torch.manual_seed(1)
    made = Net().eval()
    with torch.no_grad():  # so that all classes come up
        made.head.bias.sub_(made(IMAGES).mean(0))
    return made


def labels_of(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(IMAGES).argmax(1)


def loader(network: nn.Module, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, labels_of(network)), batch_size=16, **options)


def test_the_example_of_the_readme_runs(network: Net, working_folder: Path) -> None:
    text = README.read_text(encoding="utf-8").partition("## From Python")[2]
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {
        "my_model": network,
        "my_loader": loader(network),
        "my_optimizer": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
    }
    exec(example[1], names)  # our own text
    assert type(names["result"].network) is Net
    assert names["result"].problems == ()
    assert type(names["network"]) is Net
    assert names["network"].first.out_channels < 12


def test_network_random_state_and_modes_stay_as_they_were(network: Net) -> None:
    data = loader(network, shuffle=True)
    network.train()
    network.norm.eval()
    network.head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    result = fairdeploy.shrink(network, data, "50%", **QUICK)
    assert torch.equal(state, torch.get_rng_state())
    assert network.training
    assert not network.norm.training
    assert not network.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert result.folder is None
    assert not result.network.training
    assert sum(p.numel() for p in result.network.parameters()) <= 0.5 * sum(
        p.numel() for p in network.parameters()
    )


def test_same_seed_gives_the_same_plan_however_the_data_comes(network: Net) -> None:
    labels = labels_of(network)

    def generated() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(IMAGES.split(16), labels.split(16), strict=True)

    forms: list[Any] = [
        (IMAGES, labels),
        (IMAGES.numpy(), labels.numpy()),
        TensorDataset(IMAGES, labels),
        loader(network),
        generated(),
        list(generated()),
        (loader(network), [(IMAGES[:40] + 1, labels[:40])]),
        {"image": IMAGES, "labels": labels},
    ]
    plans = [fairdeploy.shrink(network, data, "50%", **QUICK).plan.removed for data in forms]
    assert any(plans[0].values())
    assert plans[:6] == [plans[0]] * 6
    assert plans[7] == plans[0]
    shuffled = [
        fairdeploy.shrink(network, loader(network, shuffle=True), "50%", **QUICK).plan.removed
        for _ in range(2)
    ]
    assert shuffled[0] == shuffled[1]


def test_images_alone_and_nothing_at_all_will_do(network: Net) -> None:
    unlabelled = fairdeploy.shrink(network, IMAGES, "50%", **QUICK)
    assert unlabelled.report["accuracy"]["original"] is None
    noise = fairdeploy.shrink(network, None, "50%", input_size=8, **QUICK)
    assert any("NO DATA GIVEN" in text for text in noise.report["warnings"])
    assert fairdeploy.inspect(network, input_size=8)["units"] == 28


def test_it_works_where_gradients_are_off(network: Net) -> None:
    data = (IMAGES, labels_of(network))
    wanted = fairdeploy.shrink(network, data, "50%", **QUICK).plan
    with torch.no_grad():
        assert fairdeploy.shrink(network, data, "50%", **QUICK).plan == wanted
    with torch.inference_mode():
        assert fairdeploy.shrink(network, data, "50%", **QUICK).plan == wanted


@pytest.mark.parametrize("kind", ["weight_norm", "parametrized", "tied", "hooked", "wrapped"])
def test_networks_as_people_have_them(network: Net, kind: str) -> None:
    """Each is proved against itself in the run; the answers of ``network`` stay what they were."""
    called: list[int] = []
    given: nn.Module = network
    if kind == "weight_norm":
        weight_norm(network.second)
    elif kind == "parametrized":
        parametrizations.weight_norm(network.second)
    elif kind == "tied":
        network.also = nn.Linear(16, 4)
        network.also.weight = network.head.weight
    elif kind == "hooked":
        network.second.register_forward_hook(lambda *_: called.append(1))
    else:
        given = nn.DataParallel(network)
    network.train()(IMAGES)  # leaves tensors with a history in old weight norms
    wanted = network.eval()(IMAGES)
    result = fairdeploy.shrink(given, (IMAGES, labels_of(network)), "60%", **QUICK)
    assert result.report["proof"]["passed"]
    assert torch.equal(network(IMAGES), wanted)
    assert result.network(IMAGES[:3]).shape == (3, 4)
    assert all(isinstance(each, int) for each in called)


def test_several_inputs_come_in_dictionaries() -> None:
    network = Scaled()
    batches = [({"image": IMAGES, "scale": torch.ones(len(IMAGES))}, torch.arange(96) % 4)]
    result = fairdeploy.shrink(network, batches, "50%", inputs=("image:3,8,8", "scale:"), **QUICK)
    assert result.report["proof"]["passed"]
    assert result.network(IMAGES[:2], torch.ones(2)).shape == (2, 4)


def test_a_path_is_taken_as_the_command_takes_it(network: Net, working_folder: Path) -> None:
    torch.save(network.state_dict(), "model.pt")
    Path("fairdeploy.toml").write_text("input_size = 8\nnum_calibration = 32\nround_to = 4\n")
    options = {**QUICK, "round_to": None, "num_calibration": None}
    result = fairdeploy.shrink(
        "model.pt", (IMAGES, labels_of(network)), "50%", output="out",
        arch=f"{__name__}:Net", **options,
    )  # fmt: skip
    assert result.folder == Path("out")
    assert type(result.network) is Net
    assert result.network.first.out_channels % 4 == 0
    assert Path("out", "report.json").is_file()
    with pytest.raises(FairdeployError, match="'out'"):
        result.save("out")
    assert result.save("copy").is_dir()
    assert type(fairdeploy.load("copy", network)) is Net


def test_sweep_export_and_measure_are_calls_too(network: Net, working_folder: Path) -> None:
    data = (IMAGES, labels_of(network))
    swept = fairdeploy.sweep(network, data, at=(80, 50), **QUICK)
    assert [point["budget"] for point in swept.report["points"]][1:] == ["params=80%", "params=50%"]
    result = fairdeploy.shrink(network, data, "50%", output="out", **QUICK)
    report = fairdeploy.export(result, precisions=("fp16",))
    assert [row["passed"] for row in report["variants"]] == [True]
    assert Path("out", "model-fp16.onnx").is_file()
    measured = fairdeploy.measure("out/model.onnx", target="cpu-1thread", seconds=0.2)
    assert measured["rows"][0]["first"]["low_ms"] > 0
    assert not list(Path().glob("fairdeploy-*"))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda net: fairdeploy.shrink(net, IMAGES, "50%", recovr="none"), UsageError,
         "did you mean 'recover'"),
        (lambda net: fairdeploy.shrink(net, IMAGES, "50%", attention="foo"), UsageError,
         "give one of heads, channels, both, none"),
        (lambda net: fairdeploy.shrink(net, IMAGES), UsageError, "no budget given"),
        (lambda net: fairdeploy.shrink(net, 3, "50%"), DataError, "the data is a int"),
        (lambda net: fairdeploy.shrink(cast(Any, 3), IMAGES, "50%"), UsageError,
         "the model is a int"),
        (lambda net: fairdeploy.shrink(net, (IMAGES, torch.zeros(5).long()), "50%"), DataError,
         "has 96 images but 5 labels"),
        (lambda net: fairdeploy.shrink(net, IMAGES[:, :1], "50%"), FairdeployError, "channels"),
        (lambda net: fairdeploy.shrink(net, np.zeros((4, 3)), "50%", input_size=8), DataError,
         "yields batches of shape"),
        (lambda net: fairdeploy.shrink(torch.jit.trace(net.eval(), IMAGES), IMAGES, "50%"),
         ModelError, "TorchScript"),
        (fairdeploy.inspect, UsageError, "how large its images are"),
        (lambda net: fairdeploy.measure(), UsageError, "0 files given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_calls_end_in_one_line(network: Net, call: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)) as raised:
        call(network)
    assert "\n" not in str(raised.value)


def test_a_network_that_cannot_be_copied_is_named(network: Net) -> None:
    network.__dict__["lines"] = (one for one in range(3))
    with pytest.raises(ModelError, match="the Net cannot be copied"):
        fairdeploy.shrink(network, IMAGES, "50%", **QUICK)


def test_names_are_there_without_importing_torch() -> None:
    code = (
        "import sys, fairdeploy; assert 'shrink' in dir(fairdeploy); assert 'torch' not in "
        "sys.modules; fairdeploy.shrink; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
