"""Shrunk networks of many operators give the same in ONNX Runtime as in torch, at two batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy_onnx import OnnxExporter
from tests.deployment.fakes import PROFILE
from tests.surgery.exactness import shrink_exactly

IMAGES = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Between(nn.Module):
    """Two convolutions and something between them."""

    def __init__(self, between, out: int = 8, last: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, out, 1), nn.Conv2d(last, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Rows(nn.Module):
    """A recurrent layer over the columns of an image."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.mean(2).transpose(1, 2))[0][:, -1])


class ChannelsLast(nn.Module):
    """A layer that works on the last dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def grn(y: Tensor) -> Tensor:
    length = y.norm(p=2, dim=(2, 3), keepdim=True)
    return y + y * length / (length.mean(1, keepdim=True) + 1e-6)


def global_response(y: Tensor) -> Tensor:
    length = y.norm(p=2, dim=(2, 3), keepdim=True)
    return y + y * length / (length.mean(1, keepdim=True) + 1e-6)


NETWORKS = {
    "transposed": Between(nn.ConvTranspose2d(8, 8, 2, stride=2)),
    "transposed groups": Between(nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2), last=12),
    "pixel shuffle": Between(nn.PixelShuffle(2), 16, 4),
    "pixel unshuffle": Between(nn.PixelUnshuffle(2), 4, 16),
    "einsum": Between(lambda y: y * torch.einsum("bc...,bc->b...", y, y.mean((2, 3)))[:, None]),
    "mean": Between(global_response),
    "unit length": Between(lambda y: F.normalize(y, dim=1)),
    "rms norm": Between(ChannelsLast(nn.RMSNorm(8, eps=0.1))),
    "rms norm, no weight": Between(ChannelsLast(nn.RMSNorm(8, elementwise_affine=False))),
    "group norm": Between(nn.GroupNorm(4, 8)),
    "layer norm": Between(ChannelsLast(nn.LayerNorm(8))),
    "lstm": Rows(nn.LSTM(3, 8, batch_first=True), 8),
    "gru, two layers, both ways": Rows(nn.GRU(3, 8, 2, bidirectional=True, batch_first=True), 16),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_shrunk_network_gives_the_same_in_onnx_runtime(kind: str, tmp_path: Path) -> None:
    example = torch.zeros(2, 3, 6, 6)
    shrunk = shrink_exactly(NETWORKS[kind], example, allow_norm_coupled=True)
    assert shrunk.graph.has_dynamic_batch
    path = tmp_path / "model.onnx"
    OnnxExporter().export(shrunk.module, (example,), path, dynamic_batch=True, metadata={})
    runner = OnnxExporter().open(path, PROFILE)
    for batch in (1, 3):
        (ours,) = runner.run((IMAGES[:batch].numpy(),))
        theirs = shrunk.module(IMAGES[:batch]).detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
