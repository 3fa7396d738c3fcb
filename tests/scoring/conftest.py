"""A small residual network, its hand-labelled graph, and images for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import ImageSet
from tests.scoring.hand_labelled import hand_labelled
from tests.scoring.tiny_residual import LAYERS, OTHERS, TinyResidual, randomised


@pytest.fixture
def tiny_model() -> nn.Module:
    """A seeded ``TinyResidual`` in eval mode."""
    return randomised(TinyResidual())


@pytest.fixture
def tiny_graph(tiny_model: nn.Module) -> UnitGraph:
    """The hand-labelled graph of ``tiny_model``; shares its tensors."""
    return hand_labelled(tiny_model, torch.zeros(2, 3, 8, 8), LAYERS, OTHERS)


@pytest.fixture
def tiny_images() -> ImageSet:
    """Seventy seeded images of four classes, a number that no batch size divides."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(70, 3, 8, 8, generator=generator)
    labels = torch.arange(70) % 4
    return ImageSet(images + labels[:, None, None, None] * 0.3, labels, "given")
