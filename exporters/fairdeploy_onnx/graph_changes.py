"""What can be changed in a finished ONNX file: a fixed batch, another opset."""

from __future__ import annotations

from typing import Any

from fairdeploy.errors import ExportError
from fairdeploy_onnx.session import one_line


def fix_batch(model: Any, batch: int) -> None:
    """Let the file take ``batch`` images at a time, always (changes ``model``).

    Raises:
        ExportError: It takes another number, always.
    """
    from onnxruntime.tools.onnx_model_utils import (  # optional library
        fix_output_shapes,
        make_dim_param_fixed,
    )

    for value in model.graph.input:
        dim = value.type.tensor_type.shape.dim[0]
        if dim.HasField("dim_param"):
            make_dim_param_fixed(model.graph, dim.dim_param, batch)
        elif dim.dim_value != batch:
            raise ExportError(
                f"a batch of {batch} does not fit: '{value.name}' takes {dim.dim_value} at a time, "
                "always; shrink without --fixed-batch for a file that takes any"
            )
    fix_output_shapes(model)


def with_opset(model: Any, opset: int) -> Any:
    """The model in another version of ONNX's operators.

    Raises:
        ExportError: An operator has no form there.
    """
    import onnx  # optional library: imported when an exporter is really used

    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise ExportError(f"opset {opset} does not exist here; choose one from 13 to {newest}")
    if opset_of(model) == opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises many kinds
        raise ExportError(
            f"this network cannot be written in opset {opset}: {one_line(error)}; "
            f"it is written in {opset_of(model)}"
        ) from error
    converted.ir_version = min(converted.ir_version, model.ir_version)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def opset_of(model: Any) -> int:
    """Of the standard operators."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return int(max(versions, default=0))
