"""Segmentation, several labels and numbers through whole runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fairdeploy.cli import app as cli

NETWORKS = """
from torch import nn

def build(out="4", head="map"):
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
              nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    if head == "map":
        return nn.Sequential(*layers, nn.Conv2d(16, int(out), 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, int(out)))
"""
QUALITIES = {"segmentation": "mIoU", "multilabel": "mAP", "regression": "R²"}


def network(out: int, head: str) -> nn.Module:
    names: dict[str, Any] = {}
    exec(NETWORKS, names)
    torch.manual_seed(0)
    made: nn.Module = names["build"](str(out), head).eval()
    return made


def labels_of(task: str, answer: Tensor) -> np.ndarray[Any, Any]:
    """What the network itself answers, a little off."""
    noise = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1))
    answer = answer - answer.mean(0)
    spread = answer.flatten(1).std() if answer.dim() > 2 else answer.std(0)
    wanted = answer + 0.3 * spread * noise
    if task == "segmentation":
        return wanted.argmax(1).numpy().astype(np.uint8)
    found: np.ndarray[Any, Any] = ((wanted > 0) if task == "multilabel" else wanted).numpy()
    return found


@pytest.fixture
def folder(working_folder: Path, quick_files: None) -> Path:
    (working_folder / "net.py").write_text(NETWORKS)
    return working_folder


def prepared(folder: Path, task: str) -> list[str]:
    """A network with its data; what names both to the command."""
    out, head = {"segmentation": (4, "map"), "multilabel": (3, "flat"), "regression": (2, "flat")}[
        task
    ]
    net = network(out, head)
    images = np.random.default_rng(0).integers(0, 255, (120, 8, 8, 3)).astype(np.uint8)
    with torch.no_grad():
        answer = net(torch.from_numpy(images).movedim(3, 1) / 255)
        if head == "flat":  # so that each label comes up
            net[-1].bias.sub_(answer.mean(0))  # type: ignore[index]
        else:
            net[-1].bias.sub_(answer.mean((0, 2, 3)))  # type: ignore[index]
        answer = net(torch.from_numpy(images).movedim(3, 1) / 255)
    torch.save(net.state_dict(), folder / "net.pt")
    np.savez(folder / "data.npz", images=images, labels=labels_of(task, answer))
    return ["net.pt", "--arch", f"net.py:build,out={out},head={head}", "--input-size", "8",
            "--mean", "0", "--std", "1", "--data", "data.npz", "--round-to", "1"]  # fmt: skip


def run(words: list[str]) -> int:
    return cli.run([*words, "--no-latency", "--num-calibration", "40"])


@pytest.mark.parametrize("task", QUALITIES)
def test_each_task_is_told_from_its_labels_judged_and_reported(
    folder: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = prepared(folder, task)
    assert run(["shrink", *told, "-b", "70%", "-o", "out"]) == 0
    printed = capsys.readouterr().out
    quality = QUALITIES[task]
    assert f"{quality} " in printed
    assert "images worse" in printed
    document = json.loads(Path("out/report.json").read_text())
    assert document["task"]["name"] == task
    original, exported = (document["accuracy"][step] for step in ("original", "exported"))
    assert original["value"] > 0.35
    assert exported["low"] <= exported["value"] <= exported["high"]
    assert document["recovery"]["verdict"]["num_images"] > 0
    assert not any("always answering" in text for text in document["warnings"])
    page = Path("out/report.html").read_text()
    assert quality in page
    assert "right answers" not in page
    assert "could not be shown" not in page
    assert f"% {quality} on" in Path("out/MODEL_CARD.md").read_text()


@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_gate_sweep_and_training_go_by_the_task(folder: Path, task: str) -> None:
    told = prepared(folder, task)
    assert run(["shrink", *told, "-b", "50%", "--finetune", "1", "-o", "tuned", "-q"]) == 0
    tuned = json.loads(Path("tuned/report.json").read_text())
    assert tuned["tuning"]["uses_labels"]
    assert tuned["accuracy"]["tuned"] is not None
    assert run(["sweep", *told, "--at", "80%,50%", "-o", "swept", "-q"]) == 0
    swept = json.loads(Path("swept/sweep.json").read_text())
    assert swept["task"]["name"] == task
    assert [point["accuracy"] is None for point in swept["points"]] == [False] * 3
    assert QUALITIES[task] in Path("swept/sweep.html").read_text()
    assert run(["shrink", *told, "-b", "50%", "--max-drop", "0.01%", "-o", "gated", "-q"]) == 5
    gate = json.loads(Path("gated/report.json").read_text())["max_drop"]
    assert not gate["passed"]


def test_folder_of_masks_goes_through_the_whole_run(folder: Path) -> None:
    told = prepared(folder, "segmentation")
    arrays = np.load("data.npz")
    for number, (image, mask) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
        for kind, pixels in (("images", image), ("masks", mask)):
            path = Path("street", kind, "train" if number < 60 else "test", f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    told[told.index("data.npz")] = "street"
    assert run(["shrink", *told, "-b", "70%", "-o", "out", "-q"]) == 0
    document = json.loads(Path("out/report.json").read_text())
    assert document["task"]["name"] == "segmentation"
    assert document["accuracy"]["num_images"] == 60
    assert document["accuracy"]["original"]["value"] > 0.35


def test_a_task_that_does_not_fit_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = prepared(folder, "regression")
    assert run(["shrink", *told, "-b", "70%", "--task", "segmentation", "-o", "out"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "as --task segmentation, which takes maps [N, classes, H, W]" in line
    assert run(["shrink", *told, "-b", "70%", "--task", "imitation", "-o", "out", "-q"]) == 0
    document = json.loads(Path("out/report.json").read_text())
    assert document["accuracy"]["original"] is None
