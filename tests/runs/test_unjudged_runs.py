"""Whole runs whose labels, order, preparation or task are wrong: no accuracy, and what to do."""

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

ARCH = """
from torch import nn

def build(num_classes=11, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                         nn.AvgPool2d(2), nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12),
                         nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(48, num_classes))

def embedding():
    return build(24)
"""
CLASSES = 11


def pixels_of(number: int, seed: int) -> Any:
    """A wide picture, 12 x 36: each class is its own pattern of coloured blocks, with noise."""
    pattern = np.random.default_rng(number).integers(40, 216, (2, 6, 3))
    pattern[:, 2:4] = 128  # The middle tells nothing.
    noise = np.random.default_rng([number, seed]).integers(-30, 30, (12, 36, 3))
    return (np.kron(pattern, np.ones((6, 6, 1))) + noise).clip(0, 255).astype(np.uint8)


def squashed(pixels: Any) -> Tensor:
    image = Image.fromarray(pixels).resize((12, 12), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def trained(images: Tensor, labels: Tensor, outputs: int = CLASSES) -> nn.Module:
    scope: dict[str, Any] = {}
    exec(ARCH, scope)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network: nn.Module = scope["build"](outputs)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 11 classes called 0 to 10, and networks that see them in several ways."""
    path = tmp_path_factory.mktemp("unjudged")
    (path / "net.py").write_text(ARCH)
    seen, labels = [], []
    for part, seeds in (("train", range(12)), ("test", range(20, 32))):
        for number in range(CLASSES):
            (path / "images" / part / str(number)).mkdir(parents=True)
            for seed in seeds:
                pixels = pixels_of(number, seed)
                Image.fromarray(pixels).save(path / "images" / part / str(number) / f"{seed}.png")
                if part == "train":
                    seen.append(squashed(pixels))
                    labels.append(number)
    images, numbers = torch.stack(seen), torch.tensor(labels)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    as_text = sorted(map(str, range(CLASSES)))
    networks = {
        "plain": trained(images, numbers),
        "text": trained(images, torch.tensor([as_text.index(str(n)) for n in labels])),
        "bgr": trained((images.flip(1) - mean) / std, numbers),
        "embedding": trained(images, torch.tensor(labels) + 13, 24),
    }
    for name, network in networks.items():
        torch.save(network.state_dict(), path / f"{name}.pt")
    return path


def run(folder: Path, name: str, *arguments: str, command: str = "shrink") -> int:
    factory = "embedding" if name == "embedding" else "build"
    return cli.run(
        [command, str(folder / f"{name}.pt"), "--arch", f"{folder}/net.py:{factory}",
         "--data", str(folder / "images"), "--input-size", "3,12,12", "--no-latency", "--force",
         "--recover", "none", "--num-calibration", "88", "-o", str(folder / f"{name}-{command}"),
         *arguments]
    )  # fmt: skip


def document(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}-shrink" / "report.json").read_text())
    return found


SQUASH = ("--crop-mode", "squash")


@pytest.mark.parametrize(
    ("name", "arguments", "remedy"),
    [
        ("plain", (), "add --crop-mode squash: "),
        ("text", SQUASH, "add --class-order text: "),
        (
            "bgr",
            SQUASH,
            "add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --channel-order bgr: ",
        ),
        ("plain", (*SQUASH, "--class-names", "3,1,2,0,4,5,10,7,8,9,6"), "add --class-names 0,1,2,"),
        ("embedding", SQUASH, "where the answers are no classes say --task imitation"),
    ],
)
def test_the_cause_is_named_and_nothing_is_claimed(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: tuple[str, ...],
    remedy: str,
) -> None:
    assert run(folder, name, "--budget", "70%", *arguments) == 0
    found = document(folder, name)
    assert remedy in found["not_judged"]["remedy"]
    assert [value for value in found["accuracy"].values() if isinstance(value, dict)] == []
    assert found["data"]["label_source"] == "predicted"
    assert "ACCURACY NOT JUDGED" in capsys.readouterr().err
    assert [row["top1_agreement"] for row in found["parity"]] == [None] * len(found["parity"])
    shown = (folder / f"{name}-shrink" / "MODEL_CARD.md").read_text()
    assert "top-1" not in shown
    assert "run.py IMAGE` runs the network on an image" in shown
    assert f"- Not judged: {found['not_judged']['reason']}" in shown
    page = (folder / f"{name}-shrink" / "report.html").read_text()
    assert "not judged" in page
    assert "every check passed" not in page


def test_what_the_remedy_says_is_right(folder: Path) -> None:
    arguments = ("--budget", "90%", *SQUASH, "--class-order", "text")
    assert run(folder, "text", *arguments) == 0
    found = document(folder, "text")
    assert found["not_judged"] is None
    assert found["accuracy"]["original"]["value"] > 0.8
    assert found["preprocessing"]["crop_mode"] == "squash"
    card = (folder / "text-shrink" / "MODEL_CARD.md").read_text()
    assert "images: squashed to 12x12 (bicubic), then the centre of 12x12" in card


@pytest.mark.parametrize("arguments", [(), ("--budget", "70%")])
def test_a_gate_is_refused_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    asked = ("--max-drop", "2%", "-o", str(folder / "gated"), *arguments)
    assert run(folder, "plain", *asked) == 1
    shown = capsys.readouterr().err
    assert "error: --max-drop cannot go by these labels: the original has " in shown
    assert "score units" not in shown
    assert not (folder / "gated").exists()


def test_a_sweep_claims_no_accuracy_either(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "plain", "--points", "2", command="sweep") == 0
    found = json.loads((folder / "plain-sweep" / "sweep.json").read_text())
    assert found["not_judged"]["remedy"].startswith("add --crop-mode squash")
    assert found["quality"] == "r_mass_kept"
    assert [point["accuracy"] for point in found["points"]] == [None] * 3
    assert "not judged" in capsys.readouterr().out


def test_more_files_of_an_unjudged_network_claim_none(folder: Path) -> None:
    assert run(folder, "plain", "--budget", "70%") == 0
    shrunk = folder / "plain-shrink"
    assert cli.run(["export", str(shrunk), "--precision", "fp16", "--quiet"]) == 0
    rows = json.loads((shrunk / "report.json").read_text())["variants"]
    assert [row["accuracy"] for row in rows] == [None]
    assert [row["top1_agreement"] for row in rows] == [None]
