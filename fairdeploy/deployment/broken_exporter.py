"""Stands for a plug-in that is installed but cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, fx

from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile, TensorNames

if TYPE_CHECKING:
    from fairdeploy.deployment.exporter_api import Runner


@dataclass(frozen=True, slots=True)
class BrokenExporter:
    """An exporter of which every use says why it cannot be loaded."""

    name: str
    reason: str
    file_suffix: str = ""

    def is_available(self) -> str | None:
        """Why the plug-in cannot be loaded."""
        return self.reason

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
        """Refuse."""
        raise ExportError(self.reason)

    def open(self, path: Path, profile: TargetProfile) -> Runner:
        """Refuse."""
        raise ExportError(self.reason)
