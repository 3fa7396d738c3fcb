"""Whole runs on networks that take no images: a clip, a signal, tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.cli import app as cli

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, first, mean):
        super().__init__()
        self.first, self.mean = first, mean
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    def forward(self, given):
        return self.head(self.first(given).flatten(2).mean(2) if self.mean == 2
                         else self.first(given).mean(1))

def clip():
    torch.manual_seed(0)
    return Net(nn.Sequential(nn.Conv3d(2, 12, 3), nn.BatchNorm3d(12), nn.ReLU(),
                             nn.Conv3d(12, 16, 1)), 2)

def wave():
    torch.manual_seed(0)
    return Net(nn.Sequential(nn.Conv1d(1, 12, 5, 2), nn.ReLU(), nn.Conv1d(12, 16, 3)), 2)

def text():
    torch.manual_seed(0)
    return Net(nn.Embedding(30, 16), 1)
"""
SHAPES: dict[str, tuple[str, Callable[[np.random.Generator], np.ndarray]]] = {
    "clip": ("given:2,4,6,6", lambda rng: rng.normal(0, 3, (160, 2, 4, 6, 6))),
    "wave": ("given:1,40", lambda rng: rng.normal(0, 3, (160, 40))),
    "text": ("given:8:int64:30", lambda rng: rng.integers(0, 30, (160, 8))),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_network_of_another_kind_is_shrunk_verified_and_exported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORKS, encoding="utf-8")
    spec, make = SHAPES[kind]
    given = make(np.random.default_rng(0)).reshape(160, *_sizes(spec))
    given = given if kind == "text" else given.astype(np.float32)
    np.savez("data.npz", given=given)
    words = ["--input", spec]
    assert cli.run(["inspect", f"nets.py:{kind}", *words, "--prove"]) == 0
    assert "exact: relative error" in capsys.readouterr().out
    assert cli.run([
        "shrink", f"nets.py:{kind}", *words, "--data", "data.npz", "--budget", "70%",
        "--no-latency", "-o", "out", "--num-calibration", "64",
    ]) == 0  # fmt: skip
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert report["model"]["inputs"] == [spec]
    assert report["preprocessing"] is None
    assert report["fidelity"]["by_step"]["exported"]["outputs"][0]["error"]["value"] < 1
    assert not Path("out/run.py").exists(), "which feeds images"
    assert cli.run(["verify", "out"]) == 0
    assert cli.run(["export", "out", "--precision", "int8"]) == 0
    network = torch.export.load("out/model.pt2").module()
    assert isinstance(network, nn.Module)
    answer = network(torch.from_numpy(given[:3]))
    assert isinstance(answer, Tensor)
    assert answer.shape == (3, 4)


def _sizes(spec: str) -> tuple[int, ...]:
    return tuple(map(int, spec.split(":")[1].split(",")))
