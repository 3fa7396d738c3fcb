"""Reads ONNX files, runs them in memory, and writes them whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.file_writing import appearing_files, artifact_of
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact
from fairdeploy_onnx.runner import import_onnxruntime
from fairdeploy_onnx.session import one_line

MAX_PROTOBUF_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; the mebibyte is for the graph beside the weights."""

PRECISION_KEY = "fairdeploy.precision"
MAIN_OUTPUT_KEY = "fairdeploy.main_output"
_SILENT = 4

Batch = tuple[NDArray[Any], ...]


def read_model(path: Path) -> Any:
    """The ``ModelProto`` with its external data, every node with a name of its own.

    Raises:
        ExportError: Missing, or not ONNX.
    """
    import onnx  # optional library: imported when an exporter is really used

    try:
        model = onnx.load(path)
        onnx.checker.check_model(path)
    except OSError as error:
        raise ExportError(f"cannot read '{path}': {error.strerror or error}") from error
    except Exception as error:  # protobuf's and the checker's errors have no common base
        raise ExportError(
            f"'{path.name}' is not a valid ONNX file ({one_line(error)}); "
            "give a file that fairdeploy or torch.onnx wrote"
        ) from error
    _name_nodes(model.graph)
    return model


def save_model(model: Any, path: Path, metadata: Mapping[str, str]) -> Artifact:
    """Write ``model`` with ``metadata`` added to what it has (changes ``model``).

    Raises:
        ExportError: It is no valid ONNX, or the disk refused.
    """
    import onnx  # optional library: imported when an exporter is really used

    merged = metadata_of(model) | dict(metadata)
    onnx.helper.set_model_props(model, merged)
    weight_bytes = sum(len(weight.raw_data) for weight in model.graph.initializer)
    is_large = weight_bytes > MAX_PROTOBUF_BYTES
    with checked_files(path) as written:
        onnx.save(model, written, save_as_external_data=is_large, location=f"{path.name}.data")
    return described(path, merged.get(PRECISION_KEY, "fp32"), has_weights_beside=is_large)


@contextmanager
def checked_files(path: Path) -> Iterator[Path]:
    """A path to write to; what lies there appears at ``path`` if it is valid ONNX.

    Raises:
        ExportError: It is not, or the disk refused.
    """
    import onnx  # optional library: imported when an exporter is really used

    with appearing_files(path) as written:
        yield written
        try:
            onnx.checker.check_model(written)  # by path, since memory allows no more than 2 GiB
        except onnx.checker.ValidationError as error:
            raise ExportError(
                f"the ONNX file '{path.name}' is invalid: {one_line(error)}"
            ) from error


def described(path: Path, precision: str, *, has_weights_beside: bool) -> Artifact:
    """A file, with the weights that lie beside it."""
    beside = (path.with_name(f"{path.name}.data"),) if has_weights_beside else ()
    return artifact_of(path, "onnx", precision, beside)


def metadata_of(model: Any) -> dict[str, str]:
    """What the file carries about itself."""
    return {item.key: item.value for item in model.metadata_props}


def opened(model: Any) -> Any:
    """An ``InferenceSession`` on the CPU for a model in memory, which prints nothing.

    Raises:
        ExportError: ONNX Runtime cannot run it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise ExportError(f"ONNX Runtime cannot run this network: {one_line(error)}") from error


def run_batch(session: Any, batch: Batch, outputs: Sequence[str] | None = None) -> list[Any]:
    """Arrays of the outputs, all if none are named.

    Raises:
        ExportError: The batch does not fit the file.
    """
    names = [node.name for node in session.get_inputs()]
    try:
        found: list[Any] = session.run(outputs, dict(zip(names, batch, strict=True)))
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise ExportError(f"ONNX Runtime failed on a batch: {one_line(error)}") from error
    return found


def with_outputs(model: Any, names: Sequence[str]) -> Any:
    """A copy of ``model`` that gives these values too."""
    import onnx  # optional library: imported when an exporter is really used

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return copy


def computed_values(model: Any) -> list[str]:
    """Names of what the nodes compute, in the order of the nodes."""
    return [name for node in model.graph.node for name in node.output if name]


def largest_magnitude(array: NDArray[Any]) -> float:
    """Of a float array; 0 for other types and for empty ones."""
    if array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        return 0.0
    return float(np.abs(array).max())


def in_order(model: Any) -> Any:
    """The same model with every node after what it reads: ONNX Runtime's tools append nodes."""
    import onnx_ir  # comes with onnxscript

    ordered = onnx_ir.from_proto(model)
    ordered.graph.sort()
    return onnx_ir.to_proto(ordered)


def _name_nodes(graph: Any) -> None:
    """Give nodes without a name one (changes ``graph``): quantisers go by names."""
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = name if name not in taken else f"{name}_unnamed"
