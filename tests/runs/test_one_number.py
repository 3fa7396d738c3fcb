"""Networks that give one number or map per image, or something else first: served or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fairdeploy
from fairdeploy.errors import UsageError
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions

NETWORKS = """
import torch
from torch import nn


def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class Number(nn.Module):
    def __init__(self, kind="matrix"):
        super().__init__()
        self.kind, self.body = kind, nn.Sequential(conv(3, 16), conv(16, 16))
        self.head, self.last = conv(16, 1), nn.Conv2d(1, 1, 1)

    def forward(self, image):
        maps = self.last(self.head(self.body(image)))
        if self.kind == "map":
            return maps
        number = maps.mean((2, 3))
        return number.squeeze(1) if self.kind == "vector" else number


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = conv(3, 16), nn.Linear(16, 5)

    def forward(self, image):
        return self.head(self.body(image).mean(2).permute(2, 0, 1))
"""


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the networks and 60 images are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETWORKS)
    images = np.random.default_rng(0).random((60, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    np.savez(tmp_path / "labelled.npz", images=images, labels=np.arange(60) % 2)
    return tmp_path


def shrunk(folder: Path, factory: str, data: str | None = "images.npz", **more: Any) -> Any:
    """The report after half of the parameters went."""
    namespace: dict[str, Any] = {"__name__": "nets"}
    exec(NETWORKS, namespace)
    torch.manual_seed(3)
    name, _, kind = factory.partition(",kind=")
    network: nn.Module = namespace[name](*([kind] if kind else []))
    torch.save(network.state_dict(), folder / "net.pt")
    options = ShrinkOptions(
        model="net.pt", arch=f"nets.py:{factory}", input_shape=8, data=data, budgets=("70%",),
        num_calibration=30, with_latency=False, output=folder / "out", mean=(0.5,), std=(0.5,),
        **more,
    )  # fmt: skip
    return shrink(options).document


@pytest.mark.parametrize("kind", ["matrix", "vector", "map"])
def test_one_number_per_image_is_shrunk_with_images_alone(folder: Path, kind: str) -> None:
    document = shrunk(folder, f"Number,kind={kind}")
    assert document["data"]["label_source"] == "none"
    assert document["proof"]["passed"]
    assert [row["top1_agreement"] for row in document["parity"]] == [None, None]
    assert document["accuracy"]["original"] is None


def test_channels_of_one_number_are_told_apart_by_what_it_would_change(folder: Path) -> None:
    from fairdeploy.graph.units import build_unit_graph
    from fairdeploy.records import ImageSet
    from fairdeploy.scoring.unit_scores import score_units

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1)
    )
    network.get_parameter("4.weight").data[0, 5] = 0
    graph = build_unit_graph(network.eval(), (torch.zeros(2, 3, 8, 8),))
    images = ImageSet(torch.rand(20, 3, 8, 8), None, "none")
    r = score_units(graph, images, seed=0, signal="l1", protect="taylor").r
    assert r[5] == 0
    assert (np.delete(r, 5) > 0).sum() > 10


@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_two_classes_told_by_one_number_are_judged(folder: Path, kind: str) -> None:
    """With labels that are noise nothing is claimed; with its own answers it is right."""
    noise = shrunk(folder, f"Number,kind={kind}", "labelled.npz")
    assert noise["not_judged"]["reason"].startswith("the original has ")
    images = np.load(folder / "images.npz")["images"]
    network = fairdeploy.load(folder / "out")
    with torch.no_grad():
        scores = network((torch.from_numpy(images) - 0.5) / 0.5).flatten()
    np.savez(folder / "own.npz", images=images, labels=(scores > scores.median()).int().numpy())
    found = shrunk(folder, f"Number,kind={kind}", "own.npz", task="multilabel", force=True)
    assert found["task"]["name"] == "multilabel"
    assert found["accuracy"]["original"] is not None


def test_signal_that_compares_classes_is_refused_for_one_number(folder: Path) -> None:
    with pytest.raises(UsageError, match="--signal wasserstein compares classes"):
        shrunk(folder, "Number", None)
    assert shrunk(folder, "Number", None, signal="l1", protect="none")["proof"]["passed"]


def test_training_that_needs_classes_is_refused_before_the_work(folder: Path) -> None:
    with pytest.raises(UsageError, match="--finetune needs a network with one score per class"):
        shrunk(folder, "Number,kind=map", finetune=1, distill=True)


def test_output_with_time_first_is_served_and_taken_for_no_classes(folder: Path) -> None:
    document = shrunk(folder, "TimeFirst")
    assert document["task"]["name"] == "imitation"
    assert document["fidelity"]["num_images"] == 30


@pytest.mark.parametrize("kind", ["matrix", "map"])
def test_networks_without_classes_are_held_to_what_the_original_gives(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = shrunk(folder, f"Number,kind={kind}")
    assert document["task"]["name"] == "imitation"
    found = document["fidelity"]
    assert (found["images"], found["num_images"]) == ("selection", 30)
    assert list(found["by_step"]) == ["pruned", "recovered", "exported"]
    before, after = (found["by_step"][step]["outputs"][0] for step in ("pruned", "exported"))
    assert after["error"]["low"] <= after["error"]["value"] <= after["error"]["high"]
    assert after["error"]["value"] < before["error"]["value"]
    assert found["by_step"]["exported"]["agreement"] is None
    assert "error against the original" in (folder / "out" / "report.html").read_text()


def test_scores_over_time_are_taken_for_no_classes(folder: Path) -> None:
    (folder / "nets.py").write_text(NETWORKS.replace("permute(2, 0, 1)", "permute(0, 2, 1)"))
    document = shrunk(folder, "TimeFirst", "labelled.npz")
    assert document["task"]["name"] == "imitation"
    assert document["data"]["label_source"] == "none"
    assert [value for value in document["accuracy"].values() if isinstance(value, dict)] == []
    assert [row["top1_agreement"] for row in document["parity"]] == [None, None]
    assert document["fidelity"]["images"] == "test"
    assert any("accuracy is not measured" in text for text in document["warnings"])
