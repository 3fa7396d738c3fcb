"""Makes ONNX files of ONNX files: other precisions, a fixed batch, preprocessing inside."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact, Divergence, OnnxChanges, image_preparation
from fairdeploy_onnx import divergence, run_main
from fairdeploy_onnx.embedding import add_softmax, embed_preprocessing
from fairdeploy_onnx.graph_changes import fix_batch, with_opset
from fairdeploy_onnx.half_precision import fp16_model
from fairdeploy_onnx.int8_search import Int8Search
from fairdeploy_onnx.model_files import (
    MAIN_OUTPUT_KEY,
    PRECISION_KEY,
    Batch,
    metadata_of,
    read_model,
    save_model,
)
from fairdeploy_onnx.quantization import SCHEMES, foldable_copy

DEFAULT_MAX_DROP = 0.01
_SHARED_WITH_SCRIPT = "# ---- from here on: part of run.py ----\n"
_SCRIPT_END = 'if __name__ == "__main__":'


class OnnxConversion(Exporter):
    """The part of the exporter that works on finished files."""

    precisions = ("fp32", "fp16", *SCHEMES)
    max_drop = DEFAULT_MAX_DROP

    def with_max_drop(self, max_drop: float) -> Self:
        """The same, keeping in float what would lose more than this share of right answers."""
        limited = type(self)()
        limited.max_drop = max_drop
        return limited

    def convert(
        self, onnx_path: Path, path: Path, precision: str, calibration: Iterable[Batch] | None
    ) -> Artifact:
        """Write an ONNX file in another precision.

        Raises:
            ExportError: Not an ONNX file, INT8 without calibration, fp16 that overflows, or the
                disk refused.
        """
        if precision in SCHEMES:
            return self._write_int8(onnx_path, path, precision, calibration)
        model = read_model(onnx_path)
        if precision == "fp16":
            metadata = dict(metadata_of(model))
            model = fp16_model(model, calibration)
            return save_model(model, path, metadata | {PRECISION_KEY: precision})
        if precision != "fp32":
            raise ExportError(
                f"ONNX has no precision '{precision}' here; use one of {', '.join(self.precisions)}"
            )
        return save_model(model, path, {PRECISION_KEY: precision})

    def change(self, onnx_path: Path, path: Path, changes: OnnxChanges) -> Artifact:
        """Write an ONNX file with another batch, opset, input or output.

        Raises:
            ExportError: A change does not fit the network, or the disk refused.
        """
        model = read_model(onnx_path)
        metadata = metadata_of(model)
        if changes.batch is not None:
            fix_batch(model, changes.batch)
        if changes.opset is not None:
            model = with_opset(model, changes.opset)
        if changes.preprocessing is not None:
            embed_preprocessing(model, changes.preprocessing)
            kind = "uint16" if changes.preprocessing.white else "uint8"
            metadata["fairdeploy.input"] = f"{kind} images [N, H, W, C] of any size, RGB or grey"
        if changes.probabilities:
            add_softmax(model, _main_output(model, metadata))
            metadata["fairdeploy.output"] = "probabilities"
        return save_model(model, path, metadata)

    def first_divergence(
        self, reference: Path, suspect: Path, inputs: Batch, limit: float
    ) -> Divergence | None:
        """The first node of ``reference`` whose result differs by more than ``limit``.

        Raises:
            ExportError: A file is not ONNX, or cannot be run.
        """
        return divergence.first_divergence(
            read_model(reference), read_model(suspect), inputs, limit
        )

    def stand_alone_script(self) -> str:
        """Text of ``run.py``, which needs numpy and ONNX Runtime."""
        imported = "from fairdeploy.records.image_preparation import prepared, read_pixels\n\n"
        begin, _, end = inspect.getsource(run_main).replace(imported, "").partition(_SCRIPT_END)
        _, mark, shared = inspect.getsource(image_preparation).partition(_SHARED_WITH_SCRIPT)
        assert mark, "image_preparation.py has lost its mark"
        return f"{begin}{shared.strip()}\n\n\n{_SCRIPT_END}{end}"

    def _write_int8(
        self, onnx_path: Path, path: Path, precision: str, calibration: Iterable[Batch] | None
    ) -> Artifact:
        batches = list(calibration or ())
        if not batches:
            raise ExportError(
                f"{precision} needs images to measure the ranges of values on; give --data"
            )
        metadata = metadata_of(read_model(onnx_path))
        model = foldable_copy(onnx_path)
        _keep_metadata(model, metadata)  # it tells the main output
        scheme = SCHEMES[precision]
        found = Int8Search(model, scheme, batches).best(self.max_drop)
        _keep_metadata(found.model, metadata)
        return save_model(found.model, path, found.metadata(scheme))


def _keep_metadata(model: Any, metadata: dict[str, str]) -> None:
    """ONNX Runtime's tools leave marks of their own, and may drop ours (changes ``model``)."""
    import onnx  # optional library: imported when an exporter is really used

    onnx.helper.set_model_props(model, metadata)


def _main_output(model: Any, metadata: dict[str, str]) -> str:
    return str(model.graph.output[int(metadata.get(MAIN_OUTPUT_KEY, "0"))].name)
