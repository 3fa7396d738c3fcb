"""An exponential moving average of a network's weights and norm statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fairdeploy.recovery.training.best_weights import copied_state, load_state, named_tensors

DECAY = 0.999


class MovingAverage:
    """Follows a network; in the first steps faster, so that the start is soon forgotten."""

    def __init__(self, module: nn.Module) -> None:
        """Begin with the network as it is."""
        self.tensors: dict[str, Tensor] = copied_state(module)
        self.num_updates = 0

    def update(self, module: nn.Module) -> None:
        """Take in the network as it is now."""
        self.num_updates += 1
        decay = min(DECAY, (1 + self.num_updates) / (10 + self.num_updates))
        with torch.no_grad():
            for name, tensor in named_tensors(module):
                if tensor.is_floating_point():
                    self.tensors[name].lerp_(tensor, 1 - decay)
                else:
                    self.tensors[name].copy_(tensor)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Change ``module`` to the average inside the block."""
        own = copied_state(module)
        load_state(module, self.tensors)
        try:
            yield
        finally:
            load_state(module, own)
