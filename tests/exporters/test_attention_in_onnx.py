"""Attention of any rank exports, and ONNX Runtime computes what torch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.graph.capture.capture import capture
from fairdeploy.settings.target_profiles import load_profile


class Windows(nn.Module):
    """Attention over ``[N, H, W, T, D]``, ``[N, H, T, D]`` or ``[N * H, T, D]``, masked or not."""

    def __init__(self, rank: int, has_mask: bool) -> None:
        super().__init__()
        self.rank, self.qkv = rank, nn.Linear(8, 3 * 24)
        shape = {3: (1, 16, 16), 4: (1, 2, 16, 16), 5: (1, 2, 4, 4, 4)}[rank]
        self.mask = nn.Parameter(torch.randn(shape)) if has_mask else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, self._mask(q))
        return y.transpose(-2, -3).flatten(-2).mean(1)

    def _split(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (2, 12)).transpose(1, 2)
        if self.rank == 3:
            return x.flatten(0, 1)
        return x.unflatten(2, (4, 4)) if self.rank == 5 else x

    def _mask(self, q: Tensor) -> Tensor | None:
        if self.mask is None or self.rank != 3:
            return self.mask
        return self.mask.expand(q.shape[0], -1, -1)


@pytest.mark.parametrize("has_mask", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_attention_of_any_rank_exports(rank: int, has_mask: bool, tmp_path: Path) -> None:
    torch.manual_seed(rank)
    network = Windows(rank, has_mask).eval()
    module = capture(network, (torch.randn(2, 16, 8),)).module
    exporter, path = get_exporter("onnx"), tmp_path / "model.onnx"
    exporter.export(module, (torch.randn(2, 16, 8),), path, dynamic_batch=True, metadata={})
    runner = exporter.open(path, load_profile("cpu"))
    for batch in (1, 3):
        x = torch.randn(batch, 16, 8)
        with torch.no_grad():
            expected = network(x).numpy()
        (found,) = runner.run((x.numpy(),))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    runner.close()
