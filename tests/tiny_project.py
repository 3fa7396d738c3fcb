"""A folder as a user would have it: a tiny network, its architecture, images and a project file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.random_networks import RandomNetwork, randomise

KINDS = ("residual", "dense", "attention")
FACTORY = """
from tests.random_networks import RandomNetwork

def build():
    return RandomNetwork(("residual", "dense", "attention"), (6, 6, 6), False)
"""


def network() -> RandomNetwork:
    """Random, but it gives the project's images all classes."""
    built = randomise(RandomNetwork(KINDS, (6, 6, 6), flatten=False), seed=4)
    assert isinstance(built, RandomNetwork)
    with torch.no_grad():
        scores = built.eval()(inputs_of(project_images()))
        built.head.bias.sub_(scores.mean(0))
    return built


def project_images() -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    brightness = (np.arange(120) % 5 * 10)[:, None, None, None]
    return (random.integers(0, 200, (120, 8, 8, 3)) + brightness).astype(np.uint8)


def inputs_of(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


def mostly_right(scores: torch.Tensor) -> NDArray[np.int64]:
    """Labels that a network with these scores has right for seven images of eight."""
    labels = scores.argmax(1).numpy()
    labels[::8] = (labels[::8] + 1) % scores.shape[1]
    return labels


def write_project(folder: Path) -> None:
    """A state dict, ``arch.py``, 120 labelled images of 5 classes and ``fairdeploy.toml``."""
    torch.save(network().state_dict(), folder / "model.pt")
    (folder / "arch.py").write_text(FACTORY)
    images = project_images()
    with torch.no_grad():
        labels = mostly_right(network()(inputs_of(images)))
    np.savez(folder / "images.npz", images=images, labels=labels)
    (folder / "fairdeploy.toml").write_text(
        'arch = "arch.py:build"\ninput_size = 8\ndata = "images.npz"\nnum_calibration = 60\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
