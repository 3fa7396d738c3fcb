"""Small networks, images and files for the tests of the input stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fairdeploy.records import Preprocessing

TINY = Preprocessing(channels=3, height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

FACTORY_FILE = """
import torch
from torch import nn

def network(num_classes=5, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def not_a_network():
    return 3

def fails():
    raise KeyError("weights table")

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
"""


def tiny_network(num_classes: int = 5, width: int = 4) -> nn.Sequential:
    """The network of ``FACTORY_FILE``, seeded, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        ).eval()


def write_factory_file(folder: Path) -> Path:
    """A user's Python file with a few factories."""
    path = folder / "user_networks.py"
    path.write_text(FACTORY_FILE)
    return path


def write_image(path: Path, value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    """A PNG of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_class_folders(folder: Path, counts: dict[str, int]) -> None:
    """PNG files whose grey value is 10 times the class number plus the image number."""
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            write_image(folder / name / f"{index:03d}.png", 10 * number + index)


def grey_values(images: torch.Tensor) -> list[int]:
    """The values that ``write_image`` was given, recovered from inputs normalised with ``TINY``."""
    return [round(value) for value in ((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).tolist()]
