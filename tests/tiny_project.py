"""A folder as a user would have it: a tiny network, its architecture, images and a project file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.random_networks import RandomNetwork, randomise

KINDS = ("residual", "dense", "attention")
FACTORY = """
from tests.random_networks import RandomNetwork

def build():
    return RandomNetwork(("residual", "dense", "attention"), (6, 6, 6), False)
"""


def network() -> RandomNetwork:
    built = randomise(RandomNetwork(KINDS, (6, 6, 6), flatten=False), seed=4)
    assert isinstance(built, RandomNetwork)
    return built


def write_project(folder: Path) -> None:
    """A state dict, ``arch.py``, 120 labelled images of 5 classes and ``fairdeploy.toml``."""
    torch.save(network().state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    random = np.random.default_rng(0)
    labels = np.arange(120) % 5
    images = random.integers(0, 200, (120, 8, 8, 3)) + (labels * 10)[:, None, None, None]
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)
    (folder / "fairdeploy.toml").write_text(
        'arch = "arch.py:build"\ninput_size = 8\ndata = "images.npz"\nnum_calibration = 60\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
