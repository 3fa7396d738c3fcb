"""Writes OpenVINO's IR (a graph in XML, weights beside it) from ONNX, and opens it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.deployment.conversion import Batches
from fairdeploy.deployment.file_writing import export_through_onnx
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, OperatorTime, TargetProfile, TensorNames
from fairdeploy_openvino.conversion import write_ir
from fairdeploy_openvino.library import (
    EXTRA,
    INFERENCE_TYPES,
    computes,
    has_nncf,
    import_openvino,
)
from fairdeploy_openvino.operator_times import operator_times
from fairdeploy_openvino.runner import OpenvinoRunner


class OpenvinoExporter:
    """Makes IR files from ONNX files, and runs both with OpenVINO.

    ``bf16`` is fp32 in the file and bfloat16 in the arithmetic, which OpenVINO would otherwise
    choose by itself wherever the CPU has it.
    """

    name = "openvino"
    file_suffix = ".xml"
    precisions = tuple(INFERENCE_TYPES)
    trial_format = "onnx"
    """The same network once it is read, and it can be cut to other widths."""

    def is_available(self) -> str | None:
        """None if OpenVINO is installed, else how to install it."""
        if find_spec("openvino") is None:
            return f"exporter 'openvino' needs openvino; {EXTRA}"
        return None

    def unusable_because(self, profile: TargetProfile) -> str | None:
        """None if OpenVINO has the profile's device and it computes in the profile's precision."""
        if profile.precision not in self.precisions:
            return f"the exporter 'openvino' does not write precision '{profile.precision}'"
        try:
            core = import_openvino().Core()
        except ExportError as error:
            return str(error)
        for device in profile.providers:
            if device not in core.available_devices:
                found = ", ".join(core.available_devices) or "none"
                return f"OpenVINO has no device {device} here; it has {found}"
            if profile.precision == "bf16" and not computes(core, device, "bf16"):
                return f"this {device} does not compute in bf16"
        return None

    def onnx_precision(self, precision: str) -> str:
        """fp32, but for int8 the quantised ONNX file where NNCF is not installed."""
        return "int8" if precision == "int8" and not has_nncf() else "fp32"

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
        """Write ``module`` as IR in fp32, by way of ONNX.

        Raises:
            ExportError: An operation has no form, or the disk refused.
        """
        return export_through_onnx(
            self, module, example_inputs, path,
            dynamic_batch=dynamic_batch, metadata=metadata, names=names,
        )  # fmt: skip

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Batches | None
    ) -> Artifact:
        """Write the IR of an ONNX file; ``int8`` is quantised by NNCF on ``calibration``.

        Raises:
            ExportError: Not an ONNX file, an operator that OpenVINO lacks, int8 without
                calibration images, or the disk refused.
        """
        if precision not in self.precisions:
            raise ExportError(
                f"OpenVINO files come in {', '.join(self.precisions)}, not in '{precision}'"
            )
        return write_ir(onnx_path, path, precision, calibration)

    def open(self, path: Path, profile: TargetProfile) -> OpenvinoRunner:
        """Open an IR or ONNX file on the profile's device, in its precision.

        Raises:
            ExportError: OpenVINO cannot read it, or lacks the device or the precision.
        """
        return OpenvinoRunner(path, profile)

    def operator_times(
        self,
        path: Path,
        inputs: tuple[NDArray[Any], ...],
        profile: TargetProfile,
        *,
        num_runs: int = 20,
    ) -> tuple[OperatorTime, ...]:
        """The median time of each operator, in the order in which they run.

        Raises:
            ExportError: As from ``open``, or OpenVINO fails to run it.
        """
        return operator_times(path, inputs, profile, num_runs=num_runs)
