"""Whole runs of networks that read words, tell people apart and draw pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.cli import app as cli
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.runs.stages.loading import marks_of
from fairdeploy.tasks.sequence import Sequence

LETTERS = "acehmx"
NETWORKS = """
from torch import nn

def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(conv(1, 12), nn.MaxPool2d(2), conv(12, 24), nn.MaxPool2d((2, 1)),
                                 conv(24, 24), nn.AdaptiveMaxPool2d((1, None)))
        self.rnn, self.head = nn.LSTM(24, 24, bidirectional=True), nn.Linear(48, 7)
    def forward(self, x):
        return self.head(self.rnn(self.cnn(x).squeeze(2).permute(2, 0, 1))[0])

def reader():
    return Reader()

def face():
    return nn.Sequential(conv(1, 16), nn.MaxPool2d(2), conv(16, 24), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(96, 8))

def painter():
    return nn.Sequential(conv(1, 16), conv(16, 16), nn.Conv2d(16, 4, 3, padding=1),
                         nn.PixelShuffle(2))
"""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(NETWORKS, scope)
    network: nn.Module = scope[name]()
    return network


def write_words(count: int) -> tuple[Tensor, list[str]]:
    """Grey pictures [N, 1, 12, 32] of two or three letters, and these."""
    rng, font = np.random.default_rng(0), ImageFont.load_default(11)
    texts = ["".join(rng.choice(list(LETTERS), rng.integers(2, 4))) for _ in range(count)]
    pictures = np.zeros((count, 12, 32), np.float32)
    for picture, text in zip(pictures, texts, strict=True):
        page = Image.new("L", (32, 12), 0)
        ImageDraw.Draw(page).text((int(rng.integers(0, 3)), -1), text, fill=255, font=font)
        picture[:] = np.asarray(page, np.float32) / 255
    noisy = pictures + rng.normal(0, 0.08, pictures.shape)
    return torch.tensor(noisy[:, None], dtype=torch.float32).clamp(0, 1), texts


def train(network: nn.Module, loss: Any, count: int, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.train().parameters(), 8e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(count).split(50):
            optimizer.zero_grad()
            loss(chosen).backward()
            optimizer.step()
    network.eval()


def shrunk(name: str, size: str, *words: str) -> dict[str, Any]:
    """The report of a run, whose folder is verified and exported too."""
    Path("nets.py").write_text(NETWORKS, encoding="utf-8")
    assert cli.run([
        "shrink", f"{name}.pt", "--arch", f"nets.py:{name}", "--input-size", size, "--data",
        "data.npz", "--budget", "70%", "--no-latency", "-o", "out", "--num-calibration", "64",
        *words,
    ]) == 0  # fmt: skip
    assert cli.run(["verify", "out"]) == 0
    assert cli.run(["export", "out", "--batch", "2"]) == 0
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert found["second"]["by_step"].keys() == {"original", "pruned", "recovered", "exported"}
    assert found["second"]["name"] in Path("out/report.html").read_text(encoding="utf-8")
    assert found["second"]["name"] in Path("out/MODEL_CARD.md").read_text(encoding="utf-8")
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small are slower with more
    yield
    torch.set_num_threads(threads)


def test_words_that_pillow_wrote_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    images, texts = write_words(900)
    network = build("reader")
    codes = torch.tensor([[LETTERS.index(c) + 1 for c in t] + [0] * (3 - len(t)) for t in texts])
    lengths = torch.tensor([len(text) for text in texts])

    def loss(at: Tensor) -> Tensor:
        steps = network(images[at]).log_softmax(2)
        long = torch.full((len(at),), len(steps))
        return functional.ctc_loss(steps, codes[at], long, lengths[at], zero_infinity=True)

    train(network, loss, 600, 14)
    torch.save(network.state_dict(), "reader.pt")
    np.savez(
        "data.npz", images=images[300:600].numpy(), labels=np.array(texts[300:600]),
        test_images=images[600:].numpy(), test_labels=np.array(texts[600:]),
        class_names=np.array(list(LETTERS)),
    )  # fmt: skip
    report = shrunk("reader", "1,12,32")
    assert report["task"]["name"] == "sequence"
    with torch.no_grad():
        best = network(images[600:]).argmax(2).T.tolist()
    read = [_collapsed(row) for row in best]
    right = float(np.mean([ours == text for ours, text in zip(read, texts[600:], strict=True)]))
    assert right > 0.5
    assert report["accuracy"]["original"]["value"] == pytest.approx(right)
    said = capsys.readouterr()
    assert "blank" in said.err + said.out
    assert "word accuracy" in said.out
    assert "character accuracy" in said.out
    assert report["second"]["by_step"]["original"]["value"] >= right


def _collapsed(codes: list[int]) -> str:
    kept = [c for c, before in zip(codes, [0, *codes], strict=False) if c and c != before]
    return "".join(LETTERS[code - 1] for code in kept)


def test_identities_are_found_again() -> None:
    who = torch.arange(600) % 12
    faces = torch.rand(12, 1, 8, 8)
    images = (faces[who] + 0.25 * torch.randn(600, 1, 8, 8)).clamp(0, 1)
    network = build("face")

    def loss(at: Tensor) -> Tensor:
        return functional.mse_loss(network(images[at]), functional.one_hot(who[at] % 8, 8).float())

    train(network, loss, 300, 6)
    torch.save(network.state_dict(), "face.pt")
    np.savez("data.npz", images=images[:300].numpy(), labels=who[:300],
             test_images=images[300:].numpy(), test_labels=who[300:])  # fmt: skip
    report = shrunk("face", "1,8,8", "--task", "embedding")
    vectors = functional.normalize(network(images[300:]), dim=1).detach()
    nearest = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)
    right = float((who[300:][nearest] == who[300:]).double().mean())
    assert report["task"]["quality"] == "recall@1"
    assert report["accuracy"]["original"]["value"] == pytest.approx(right)
    assert 0 < report["second"]["by_step"]["exported"]["value"] <= 1


def test_pictures_are_judged_by_their_likeness() -> None:
    large = functional.interpolate(torch.rand(500, 1, 6, 6), 16, mode="bicubic").clamp(0, 1)
    small = functional.avg_pool2d(large, 2)
    network = build("painter")
    train(network, lambda at: functional.l1_loss(network(small[at]), large[at]), 300, 6)
    torch.save(network.state_dict(), "painter.pt")
    as_bytes = (255 * large).round().byte().numpy()
    np.savez("data.npz", images=small[:300].numpy(), labels=as_bytes[:300],
             test_images=small[300:].numpy(), test_labels=as_bytes[300:])  # fmt: skip
    report = shrunk("painter", "1,8,8")
    assert report["task"]["name"] == "image-to-image"
    with torch.no_grad():
        error = (network(small[300:]).clamp(0, 1) - large[300:]).square().flatten(1).mean(1)
    expected = float((-10 * error.log10()).mean())
    assert expected > 18
    found = report["second"]["by_step"]["original"]
    assert found["value"] == pytest.approx(expected, abs=0.05)
    assert any("targets are taken times 0.00392157" in text for text in report["warnings"])


def test_marks_are_those_of_whole_answers_in_any_batches() -> None:
    network = build("reader").eval()
    images, targets = torch.rand(130, 1, 12, 32), torch.randint(1, 7, (130, 3))
    graph = build_unit_graph(network, (images[:2],)).for_task(Sequence())
    with torch.no_grad():
        found = marks_of(graph)(ImageSet(images, targets, "given"))
        expected = Sequence().marks(network(images).transpose(0, 1), targets)
    torch.testing.assert_close(found, expected)
