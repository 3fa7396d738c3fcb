"""Where a training runs: this process and its device, or one of several that ``torchrun`` started.

Several processes are joined by ``accelerate``; without it a training runs in plain torch.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from fairdeploy.errors import UsageError


class Runtime(Protocol):
    """Puts a network and its optimiser where they run, and runs backward there."""

    device: torch.device
    rank: int
    """Number of this process, from 0."""
    num_processes: int

    @property
    def name(self) -> str:
        """What it is, for the report: ``cpu``, ``2 x cuda``."""

    def prepared(self, network: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """The same, ready to train."""

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Half precision inside the block where the device is a GPU."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, summed up over all processes."""

    def step(self, optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
        """Change the parameters; gradients longer than 1 are shortened."""

    def gathered(self, total: float) -> float:
        """The sum over all processes."""


class PlainRuntime:
    """One process in plain torch: on the first GPU if there is one, in half precision there."""

    rank = 0
    num_processes = 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._half = torch.bfloat16 if _has_bfloat16(self.device) else torch.float16
        needs_scaling = self.device.type == "cuda" and self._half == torch.float16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=needs_scaling)

    @property
    def name(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.type

    def prepared(self, network: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """The same."""
        return network, optimizer

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Half precision on a GPU."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._half)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
        """Change the parameters."""
        self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self._scaler.step(optimizer)
        self._scaler.update()

    def gathered(self, total: float) -> float:
        """The total itself."""
        return total


class AcceleratedRuntime:
    """One of several processes, joined by ``accelerate``."""

    def __init__(self) -> None:
        import accelerate

        half = "bf16" if _has_bfloat16(torch.device("cuda")) else "fp16"
        has_gpu = torch.cuda.is_available()
        self._accelerator = accelerate.Accelerator(
            mixed_precision=half if has_gpu else "no", cpu=not has_gpu
        )
        self.device = self._accelerator.device
        self.rank = int(self._accelerator.process_index)
        self.num_processes = int(self._accelerator.num_processes)

    @property
    def name(self) -> str:
        """``2 x cuda``."""
        return f"{self.num_processes} x {self.device.type}"

    def prepared(self, network: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """The network wrapped so that gradients are averaged over the processes."""
        wrapped, prepared = self._accelerator.prepare(network, optimizer)
        return wrapped, prepared

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """What the accelerator was told."""
        context: AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        """Compute gradients and average them."""
        self._accelerator.backward(loss)

    def step(self, optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
        """Change the parameters."""
        self._accelerator.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()

    def gathered(self, total: float) -> float:
        """The sum over all processes."""
        value = torch.tensor(total, dtype=torch.float64, device=self.device)
        return float(self._accelerator.reduce(value, reduction="sum"))


MAX_GRADIENT_NORM = 5.0


def open_runtime() -> Runtime:
    """This process alone, or together with those that ``torchrun`` started.

    Raises:
        UsageError: There are several processes, but ``accelerate`` is not installed.
    """
    if num_launched() == 1:
        return PlainRuntime()
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError(
            f"{num_launched()} processes were started, but 'accelerate' is not installed; "
            "pip install 'fairdeploy[distributed]', or start one process"
        )
    return AcceleratedRuntime()


def num_launched() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


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
