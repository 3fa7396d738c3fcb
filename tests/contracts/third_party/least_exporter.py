"""The least that an exporter of one's own needs: what the base class cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Exporter, Runner
from fairdeploy.deployment.file_writing import appearing_files, artifact_of
from fairdeploy.records import Artifact, TargetProfile, TensorNames


class LeastExporter(Exporter):
    """Writes torch's own programs."""

    name = "least"
    file_suffix = ".pt2"

    def is_available(self) -> str | None:
        """Torch is always there."""
        return None

    def export(
        self,
        module: fx.GraphModule,
        example_inputs: tuple[Tensor, ...],
        path: Path,
        *,
        dynamic_batch: bool,
        metadata: Mapping[str, str],
        names: TensorNames | None = None,
    ) -> Artifact:
        """Write ``module`` to ``path``."""
        batch = {0: torch.export.Dim.DYNAMIC} if dynamic_batch else {}
        program = torch.export.export(
            module, example_inputs, dynamic_shapes=tuple(batch for _ in example_inputs)
        )
        with appearing_files(path) as scratch:
            torch.export.save(program, scratch)
        return artifact_of(path, "least", "fp32")

    def open(self, path: Path, profile: TargetProfile) -> Runner:
        """Load a file; whatever torch raises becomes one line."""
        return LeastRunner(torch.export.load(path), profile.threads)


class LeastRunner(Runner):
    """A loaded program."""

    providers = ("torch",)

    def __init__(self, program: Any, threads: int) -> None:
        """Take a program for ``threads`` threads."""
        self._module: Any = program.module(check_guards=False)
        self.threads = threads

    def run(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Outputs for one batch."""
        with torch.no_grad():
            result = self._module(*map(torch.from_numpy, inputs))
        return tuple(each.numpy() for each in (result if isinstance(result, tuple) else (result,)))

    def close(self) -> None:
        """Nothing is held."""
