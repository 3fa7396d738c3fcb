"""Outputs [T, N, C] and [N, T, C] of the same network come to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.cli import app as cli
from fairdeploy.deployment.parity import predict
from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.graph.capture.model_outputs import find_batch_dims
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.answers import checked_output
from fairdeploy.recovery.training.network_blocks import input_names, main_output, stretch

NETWORK = '''
import torch
from torch import nn

class Net(nn.Module):
    """As many steps as images in the example, so that positions tell nothing."""
    def __init__(self, is_time_first):
        super().__init__()
        self.is_time_first = is_time_first
        self.cnn = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                                 nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
                                 nn.AdaptiveAvgPool2d((1, 2)))
        self.rnn, self.head = nn.LSTM(16, 12, bidirectional=True), nn.Linear(24, 7)
    def forward(self, x):
        steps, (hidden, _) = self.rnn(self.cnn(x).squeeze(2).permute(2, 0, 1))
        steps = self.head(steps)
        return steps if self.is_time_first else steps.transpose(0, 1), hidden

def build(is_time_first=True):
    torch.manual_seed(0)
    return Net(is_time_first).eval()
'''


def build(*, is_time_first: bool) -> nn.Module:
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    network: nn.Module = scope["build"](is_time_first)
    return network


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK, encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez("data.npz", images=rng.random((160, 6, 8), dtype=np.float32))
    found = []
    for order in (True, False):
        assert cli.run([
            "shrink", f"net.py:build,is_time_first={order}", "--input-size", "1,6,8",
            "--data", "data.npz", "--budget", "60%", "--no-latency", "-o", f"out{order:d}",
            "--num-calibration", "64",
        ]) == 0  # fmt: skip
        assert cli.run(["verify", f"out{order:d}"]) == 0
        assert cli.run(["export", f"out{order:d}", "--precision", "int8"]) == 0
        text = Path(f"out{order:d}/report.json").read_text(encoding="utf-8")
        found.append(json.loads(text))
    return found


def test_both_layouts_come_to_the_same(reports: list[dict[str, Any]]) -> None:
    plans = [json.loads(Path(f"out{order}/plan.json").read_text("utf-8")) for order in (1, 0)]
    assert plans[0]["groups"] == plans[1]["groups"]
    outputs = [report["fidelity"]["by_step"]["exported"]["outputs"] for report in reports]
    errors = [{row["output"]: row["error"]["value"] for row in rows} for rows in outputs]
    assert errors[0].keys() == {"output_0", "output_1"}
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
    network = torch.export.load("out1/model.pt2").module()
    assert network(torch.zeros(3, 1, 6, 8))[0].shape == (2, 3, 7), "the layout is the user's"


@pytest.mark.parametrize("is_time_first", [True, False])
def test_where_images_lie_is_found_out(is_time_first: bool) -> None:
    network = build(is_time_first=is_time_first)
    inputs = model_inputs(network, (), (1, 6, 8))
    graph = build_unit_graph(network, inputs)
    assert graph.outputs.batch_dims == (int(is_time_first), 1)
    assert find_batch_dims(network, inputs) == (int(is_time_first), 1)
    images = torch.rand(5, 1, 6, 8)
    with torch.no_grad():
        wanted = build(is_time_first=False)(images)[0]
        assert torch.equal(graph.outputs.main_tensor(network(images)), wanted)
        main = main_output(graph.module, graph.outputs.main).name
        asked = stretch(graph.module, input_names(graph.module), [main], graph.outputs.batch_dim)
        torch.testing.assert_close(asked(images)[0], wanted)
        found = predict(network, images, 2, batch_dims=graph.outputs.batch_dims)
    torch.testing.assert_close(found, wanted)


def test_an_output_without_images_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"shape \[4, 7\] for 3 images: no dimension of it counts"):
        checked_output(torch.zeros(4, 7), 3)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((0, 2, 3))


def test_a_mean_over_the_batch_has_no_images() -> None:
    network = _Mean()
    assert find_batch_dims(network, model_inputs(network, (), (4, 6, 8))) == (0,)
