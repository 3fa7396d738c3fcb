"""An exporter as somebody else would write it: torch's own program, run by torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile, TensorNames


class TinyRunner:
    """A loaded program."""

    providers = ("torch",)

    def __init__(self, program: Any, threads: int) -> None:
        self._module: Any = program.module(check_guards=False)
        self.threads = threads

    def run(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        with torch.no_grad():
            result = self._module(*(torch.from_numpy(array) for array in inputs))
        results = result if isinstance(result, tuple | list) else (result,)
        return tuple(tensor.numpy() for tensor in results)

    def close(self) -> None:
        self._module = None


class TinyExporter:
    """Writes ``.tiny`` files."""

    name = "tiny"
    file_suffix = ".tiny"

    def is_available(self) -> str | None:
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
        batch = {0: torch.export.Dim.DYNAMIC} if dynamic_batch else {}
        shapes = tuple(dict(batch) for _ in example_inputs)
        program = torch.export.export(module, example_inputs, dynamic_shapes=shapes)
        if not path.parent.is_dir():
            raise ExportError(f"cannot write '{path}': no such folder")
        scratch = path.with_suffix(".new")
        with scratch.open("wb") as file:
            torch.export.save(program, file)
        content = scratch.read_bytes()
        scratch.rename(path)
        digest = hashlib.sha256(content).hexdigest()
        return Artifact(path.name, "tiny", "fp32", digest, len(content))

    def open(self, path: Path, profile: TargetProfile) -> TinyRunner:
        try:
            with path.open("rb") as file:
                return TinyRunner(torch.export.load(file), profile.threads)
        except Exception as error:
            raise ExportError(f"'{path.name}' is not a tiny file") from error
