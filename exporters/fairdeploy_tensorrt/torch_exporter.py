"""Builds TensorRT engines from torch's exported program, without ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, TargetProfile, TensorNames
from fairdeploy_tensorrt.building import BATCHES
from fairdeploy_tensorrt.device import gpu_name, missing_for_running, require_gpu
from fairdeploy_tensorrt.engine_tag import EngineTag
from fairdeploy_tensorrt.exporter import written_engine
from fairdeploy_tensorrt.libraries import TENSORRT
from fairdeploy_tensorrt.runner import EngineRunner

_INSTALL = "run pip install 'fairdeploy[torch-tensorrt]' in an environment without onnxruntime-gpu"


class TorchTensorrtExporter(Exporter):
    """Engines through ``torch_tensorrt``; TensorRT itself opens them."""

    name = "torch-tensorrt"
    file_suffix = ".engine"

    def is_available(self) -> str | None:
        """None if the library is installed, else how to install it."""
        if find_spec("torch_tensorrt") is None:
            return f"exporter 'torch-tensorrt' needs torch-tensorrt; {_INSTALL}"
        return None

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if there is a GPU and the profile asks for fp32, else what is in the way."""
        if profile.precision != "fp32":
            return f"the exporter 'torch-tensorrt' does not write precision '{profile.precision}'"
        return missing_for_running()

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
        """Write ``module`` as an fp32 engine for this GPU.

        Raises:
            ExportError: No GPU, a size other than the batch varies, or the build failed.
        """
        if names is not None and any(names.sizes):
            raise ExportError(
                "a size other than the batch varies, which torch-tensorrt engines here do not "
                "take; export the network with fixed sizes"
            )
        library = _import()
        require_gpu()
        engine = _engine(library, module, example_inputs, dynamic_batch=dynamic_batch)
        tag = EngineTag(
            library=TENSORRT.title,
            version=str(TENSORRT.load().__version__),
            gpu=gpu_name(),
            precision="fp32",
            engine_sha256=hashlib.sha256(engine).hexdigest(),
            batches=BATCHES[-1:] if dynamic_batch else (),
            metadata=metadata,
        )
        return written_engine(path, engine, tag, self.name)

    def open(self, path: Path, profile: TargetProfile) -> EngineRunner:
        """Open an engine on the GPU.

        Raises:
            ExportError: No GPU, no engine, or one that was built for another GPU or version.
        """
        return EngineRunner(path, profile, TENSORRT)


def _import() -> Any:
    try:
        import torch_tensorrt  # optional library
    except (ImportError, OSError, RuntimeError) as error:
        raise ExportError(f"torch-tensorrt cannot be imported ({error}); {_INSTALL}") from error
    return torch_tensorrt


def _engine(
    library: Any,
    module: fx.GraphModule,
    example_inputs: tuple[Tensor, ...],
    *,
    dynamic_batch: bool,
) -> bytes:
    any_length = torch.export.Dim.DYNAMIC
    shapes = tuple({0: any_length} for _ in example_inputs) if dynamic_batch else None
    smallest, likeliest, largest = BATCHES[-1]
    inputs = [
        library.Input(
            min_shape=(smallest, *x.shape[1:]),
            opt_shape=(likeliest, *x.shape[1:]),
            max_shape=(largest, *x.shape[1:]),
            dtype=x.dtype,
        )
        if dynamic_batch
        else library.Input(shape=tuple(x.shape), dtype=x.dtype)
        for x in example_inputs
    ]
    try:
        with torch.no_grad():
            program = torch.export.export(module, example_inputs, dynamic_shapes=shapes)
        build = library.dynamo.convert_exported_program_to_serialized_trt_engine
        return bytes(build(program, arg_inputs=inputs))
    except Exception as error:  # torch and torch-tensorrt raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = lines[0][:300] if lines else "no message"
        raise ExportError(
            f"torch-tensorrt cannot build this network: {type(error).__name__}: {detail}"
        ) from error
