"""Builds engines from ONNX files, and opens them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fairdeploy.deployment.exporter_api import Batches
from fairdeploy.deployment.file_writing import ThroughOnnx, appearing_files, artifact_of
from fairdeploy.errors import ExportError
from fairdeploy.files import cache_folder
from fairdeploy.records import Artifact, TargetProfile
from fairdeploy_tensorrt.building import BATCHES, build_engine
from fairdeploy_tensorrt.device import gpu_name, missing_for_running
from fairdeploy_tensorrt.engine_tag import EngineTag, tag_path, write_tag
from fairdeploy_tensorrt.libraries import TENSORRT, TENSORRT_RTX
from fairdeploy_tensorrt.onnx_input import read_onnx, require_precision
from fairdeploy_tensorrt.runner import EngineRunner
from fairdeploy_tensorrt.timing_cache import TimingCache


class TensorrtExporter(ThroughOnnx):
    """TensorRT: engines that fit the GPU on which they were built."""

    name = "tensorrt"
    file_suffix = ".engine"
    precisions = ("fp32", "fp16", "int8")
    library = TENSORRT

    def is_available(self) -> str | None:
        """None if the library is installed, else how to install it."""
        missing = self.library.missing()
        return f"exporter '{self.name}' cannot work: {missing}" if missing else None

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if there is a GPU and the precision can be written, else what is in the way."""
        if profile.precision not in self.precisions:
            return f"the exporter '{self.name}' does not write precision '{profile.precision}'"
        return missing_for_running()

    def onnx_precision(self, precision: str) -> str:
        """TensorRT takes every type as the ONNX file has it; int8 without zero points only."""
        return "int8-symmetric" if precision == "int8" else precision

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write the engine of an ONNX file, and beside it what it was built by and for.

        Raises:
            ExportError: Not an ONNX file, not of this precision, an operator that TensorRT lacks,
                the build failed, or the disk refused.
        """
        if precision not in self.precisions:
            raise ExportError(
                f"{self.library.title} engines come in {', '.join(self.precisions)}, "
                f"not in '{precision}'"
            )
        found = read_onnx(onnx_path)
        require_precision(onnx_path, found.precision, precision)
        version = str(self.library.load().__version__)
        gpu = gpu_name() if self.library.is_gpu_needed_to_build else ""
        cache = None
        if self.library.is_gpu_needed_to_build:
            cache = TimingCache(cache_folder(), self.library.module, version, gpu)
        engine = build_engine(self.library, onnx_path, found, cache)
        tag = EngineTag(
            library=self.library.title,
            version=version,
            gpu=gpu,
            precision=precision,
            engine_sha256=hashlib.sha256(engine).hexdigest(),
            source_sha256=hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
            batches=BATCHES if found.batched else (),
            metadata=found.metadata,
        )
        return written_engine(path, engine, tag, self.name)

    def open(self, path: Path, profile: TargetProfile) -> EngineRunner:
        """Open an engine on the GPU.

        Raises:
            ExportError: No GPU, no engine, or one that was built for another GPU or version.
        """
        return EngineRunner(path, profile, self.library)


class TensorrtRtxExporter(TensorrtExporter):
    """TensorRT for RTX: builds without a GPU; the GPU that runs the engine finishes it."""

    name = "tensorrt-rtx"
    file_suffix = ".rtxengine"
    """Of its own, since an engine of TensorRT may lie beside it."""
    library = TENSORRT_RTX


def written_engine(path: Path, engine: bytes, tag: EngineTag, file_format: str) -> Artifact:
    """Write an engine and its tag; both appear or neither."""
    with appearing_files(path) as written:
        written.write_bytes(engine)
        write_tag(written, tag)
    return artifact_of(path, file_format, tag.precision, (tag_path(path),))
