"""Graphs that torch.onnx alone would break or refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.graph.capture.capture import capture
from fairdeploy.settings.target_profiles import load_profile

BOUNDS = ((-0.1, 0.2), (-0.5, 0.5), (0.0, 0.05))


class Clamped(nn.Module):
    """Layers that clamp one value, each to bounds of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 4) for _ in BOUNDS)
        for index, (low, high) in enumerate(BOUNDS):
            self.register_buffer(f"low_{index}", torch.tensor(low))
            self.register_buffer(f"high_{index}", torch.tensor(high))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to [N, 12]."""
        shared = x * 0.5
        bounds = [
            (getattr(self, f"low_{index}"), getattr(self, f"high_{index}"))
            for index in range(len(BOUNDS))
        ]
        parts = [
            layer(torch.clamp(shared, low, high))
            for layer, (low, high) in zip(self.layers, bounds, strict=True)
        ]
        return torch.cat(parts, 1)


class TwoHalves(nn.Module):
    """Both halves of a doubled batch through one layer, and apart again."""

    def __init__(self, apart: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.layer, self.apart = nn.Linear(8, 4), apart

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to [N, 4]."""
        first, second = self.apart(self.layer(torch.cat([x, x.square()])))
        return first - 2 * second


WAYS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "chunk": lambda y: torch.chunk(y, 2),
    "split": lambda y: torch.split(y, y.shape[0] // 2),
    "three pieces": lambda y: torch.chunk(torch.cat([y, y[: y.shape[0] // 2]]), 3)[1:],
}


def require_same(network: nn.Module, folder: Path) -> None:
    """ONNX Runtime gives what torch gives, at two batch sizes."""
    torch.manual_seed(0)
    example = torch.randn(2, 8)
    module = capture(network.eval(), (example,)).module
    exporter, path = get_exporter("onnx"), folder / "model.onnx"
    exporter.export(module, (example,), path, dynamic_batch=True, metadata={})
    runner = exporter.open(path, load_profile("cpu"))
    for batch in (1, 3):
        x = torch.randn(batch, 8)
        with torch.no_grad():
            expected = network(x).numpy()
        (found,) = runner.run((x.numpy(),))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    runner.close()


def test_each_clamp_of_a_shared_value_keeps_its_own_bounds(tmp_path: Path) -> None:
    torch.manual_seed(1)
    require_same(Clamped(), tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_pieces_as_long_as_the_batch_export(way: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    require_same(TwoHalves(WAYS[way]), tmp_path)
