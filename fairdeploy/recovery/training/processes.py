"""Where a training runs: this process and its device, or several that ``torchrun`` started.

``accelerate`` runs it in either case: mixed precision, the scaling that float16 needs, gradients
averaged over the processes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class Trained(nn.Module):
    """Calls a captured network.

    ``accelerate`` holds on to the ``forward`` of what it prepares, and a captured network has
    another one in training mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the network gives."""
        values: tuple[Tensor, ...] = self.network(*inputs)
        return values


@contextmanager
def accelerated() -> Iterator[Accelerator]:
    """What trains inside the block: on a GPU if there is one, in half precision there.

    A caller's own ``Accelerator`` decides instead if there is one; of ours nothing stays.
    """
    # Here, since it takes a third of a second.
    import accelerate
    from accelerate.state import AcceleratorState, is_initialized

    if is_initialized():
        yield accelerate.Accelerator()
        return
    has_gpu = torch.cuda.is_available()
    half = "bf16" if has_gpu and torch.cuda.is_bf16_supported() else "fp16"
    ours = accelerate.Accelerator(mixed_precision=half if has_gpu else "no", cpu=not has_gpu)
    try:
        yield ours
    finally:
        ours.free_memory()
        if ours.num_processes == 1:
            # Else the caller could make none of another precision after us.
            AcceleratorState._reset_state(reset_partial_state=True)


def device_name(accelerator: Accelerator) -> str:
    """``cpu``, ``2 x cuda``."""
    count, kind = accelerator.num_processes, accelerator.device.type
    return f"{count} x {kind}" if count > 1 else str(kind)


def summed(accelerator: Accelerator, value: float) -> float:
    """The sum over all processes."""
    total = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(total, reduction="sum"))


def training_device() -> torch.device:
    """The first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def launched_rank() -> int:
    """Number of this process among those that ``torchrun`` started; 0 without it."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def moved(module: fx.GraphModule, device: torch.device) -> Iterator[None]:
    """Change ``module`` so that it runs on ``device`` inside the block."""
    if device.type == "cpu":
        yield
        return
    home = torch.device("cpu")
    move(module, device)
    try:
        yield
    finally:
        move(module, home)


def move(module: fx.GraphModule, device: torch.device) -> None:
    """Change the tensors in place, and the device that calls in the graph make new ones on."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.to(device)
    for node in module.graph.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.update_kwarg("device", device)
    module.recompile()


def on_device(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """The module itself if it is there already, else a copy."""
    if device.type == "cpu":
        return module
    moved_copy = copy.deepcopy(module)
    move(moved_copy, device)
    return moved_copy
