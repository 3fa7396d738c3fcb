"""Runs networks in torch the way that files are run: arrays in, arrays out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from fairdeploy.deployment.exporter_api import Runner


class TorchRunner(Runner):
    """A network on a device of torch; a call ends when its outputs are back in host memory."""

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        self._module: nn.Module | None = copy.deepcopy(module).to(device, dtype)
        self._device, self._dtype = device, dtype
        self.providers = (f"torch {device}",)
        self.threads = torch.get_num_threads()
        self.versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}

    def run(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """Outputs for one batch."""
        assert self._module is not None
        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self._device, self._dtype) for array in inputs]
            outputs = pytree.tree_leaves(self._module(*tensors))
            return tuple(output.float().cpu().numpy() for output in outputs)

    def close(self) -> None:
        """Give the network's memory back."""
        self._module = None
