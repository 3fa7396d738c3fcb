"""What an ONNX file holds, as far as it bears on building an engine from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.errors import ExportError

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class OnnxInput:
    """Precision, varying inputs and notes of an ONNX file."""

    precision: str
    batched: dict[str, tuple[int, ...]]
    """Inputs whose first size varies: the sizes behind it."""
    metadata: dict[str, str]


def read_onnx(path: Path) -> OnnxInput:
    """What TensorRT must be told, or checked against.

    Raises:
        ExportError: Not an ONNX file, or a size other than the batch varies.
    """
    import onnx  # optional library: imported when an exporter is really used

    if not path.is_file():
        raise ExportError(f"no ONNX file '{path}'")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf and onnx raise many kinds
        raise ExportError(f"'{path.name}' is not an ONNX file") from error
    if not model.graph.node:
        raise ExportError(f"'{path.name}' is not an ONNX file, or one without any operator")
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return OnnxInput(
        precision=_precision(onnx, model),
        batched={
            value.name: sizes for value in inputs if (sizes := _behind_batch(value)) is not None
        },
        metadata={item.key: item.value for item in model.metadata_props},
    )


def require_precision(path: Path, found: str, wanted: str) -> None:
    """Raise unless the file already has the precision that the engine shall have.

    Raises:
        ExportError: It has another.
    """
    if found != wanted:
        raise ExportError(
            f"'{path.name}' is {found}, and TensorRT takes the precision from the ONNX file; "
            f"give the {wanted} ONNX file"
        )


def _precision(onnx: Any, model: Any) -> str:
    if any(node.op_type in _QUANTISERS for node in model.graph.node):
        return "int8"
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    kinds = [constant.data_type for constant in model.graph.initializer]
    for half, name in zip(halves, ("fp16", "bf16"), strict=True):
        if half in kinds:
            return name
    return "fp32"


def _behind_batch(value: Any) -> tuple[int, ...] | None:
    """Sizes behind a batch that varies; None where the batch is fixed.

    Raises:
        ExportError: Another size varies.
    """
    sizes = [size.dim_value if size.HasField("dim_value") else None
             for size in value.type.tensor_type.shape.dim]  # fmt: skip
    rest = tuple(size for size in sizes[1:] if size is not None)
    if len(rest) < len(sizes[1:]):
        raise ExportError(
            f"input '{value.name}' varies in another size than the batch, and TensorRT must know "
            "its bounds; export the network with fixed sizes"
        )
    return rest if sizes and sizes[0] is None else None
