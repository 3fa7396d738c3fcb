"""Scores from folded norms against plain autograd."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.records import ImageSet
from fairdeploy.scoring import score_units
from fairdeploy.scoring.reconstruction import GradientProducts
from tests.scoring.hand_labelled import hand_labelled
from tests.scoring.tiny_residual import randomised


class Normed(nn.Module):
    """A convolution and its norm, which is read once or also passed on."""

    def __init__(self, has_bias: bool, reads_before_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=has_bias)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)
        self.reads_before_norm = reads_before_norm

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 3]."""
        y = self.conv(x)
        z = torch.relu(self.norm(y))
        out: Tensor = self.head((z + y if self.reads_before_norm else z).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("has_bias", "reads_before_norm", "num_folded"),
    [(False, False, 1), (True, False, 1), (True, True, 0)],
)
def test_folded_norm_gives_the_r_of_all_four_tensors(
    has_bias: bool, reads_before_norm: bool, num_folded: int
) -> None:
    model = randomised(Normed(has_bias, reads_before_norm))
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(20, 3, 7, 7, generator=generator)
    labels = torch.arange(20) % 3
    others = {"norm.weight": "conv", "norm.bias": "conv"}
    if has_bias:
        others["conv.bias"] = "conv"
    graph = hand_labelled(model, torch.zeros(2, 3, 7, 7), {"conv.weight": "conv"}, others)
    assert len(GradientProducts(graph).folded) == num_folded

    plain = copy.deepcopy(model).double()
    torch.autograd.backward(F.cross_entropy(plain(images.double()), labels))
    expected = torch.zeros(5, dtype=torch.float64)
    for name, parameter in plain.named_parameters():
        if not name.startswith("head"):
            assert parameter.grad is not None
            expected += (parameter.detach() * parameter.grad).reshape(5, -1).sum(1)
    scores = score_units(graph, ImageSet(images, labels, "given"), seed=0, num_projections=4)
    np.testing.assert_allclose(scores.r, expected.abs(), rtol=2e-4, atol=1e-7)
