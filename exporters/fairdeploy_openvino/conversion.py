"""From an ONNX file to OpenVINO's IR, in fp32, fp16 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.exporter_api import Batches
from fairdeploy.deployment.file_writing import appearing_files, artifact_of
from fairdeploy.deployment.output_columns import has_wide_scales
from fairdeploy.errors import ExportError
from fairdeploy.records import Artifact
from fairdeploy_openvino.library import (
    import_nncf,
    import_openvino,
    one_line,
    require_network,
)
from fairdeploy_openvino.notes import NOTES, notes_of

MAX_CALIBRATION_IMAGES = 300
"""As many as NNCF itself looks at."""

_STREAM_ERROR = "iostream error"
"""All that OpenVINO says of a full disk."""
_QUANTISED = ("FakeQuantize", "FakeConvert")
_PRODUCTS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")
_TRIED_IMAGES = 16
_ATTENTION = ("ScaledDotProductAttention", "Softmax")


def write_ir(onnx_path: Path, path: Path, precision: str, calibration: Batches | None) -> Artifact:
    """Write ``path`` and its weights (``.bin``).

    Raises:
        ExportError: OpenVINO cannot read the file, or there is nothing to calibrate on.
    """
    openvino = import_openvino()
    model = _read_onnx(openvino, onnx_path)
    if precision == "int8" and not _is_quantised(model):
        model = _quantised(model, calibration)
    for key, value in {"precision": precision, **notes_of(onnx_path)}.items():
        model.set_rt_info(value, [NOTES, key])
    with appearing_files(path) as written:
        try:
            openvino.save_model(model, str(written), compress_to_fp16=precision == "fp16")
        except RuntimeError as error:  # OpenVINO's exceptions have no public base
            why = "the disk refused" if _STREAM_ERROR in str(error) else one_line(error)
            raise ExportError(
                f"cannot write '{path}': {why}; "
                "choose a folder with enough space that you may write to"
            ) from error
    return artifact_of(path, "openvino", precision, (path.with_suffix(".bin"),))


def _read_onnx(openvino: Any, path: Path) -> Any:
    require_network(path)
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:  # as above
        raise ExportError(f"OpenVINO cannot read '{path.name}': {one_line(error)}") from error


def _is_quantised(model: Any) -> bool:
    return any(node.get_type_name() in _QUANTISED for node in model.get_ops())


def _quantised(model: Any, calibration: Batches | None) -> Any:
    images = list(islice(_single_images(calibration or ()), MAX_CALIBRATION_IMAGES))
    if not images:
        raise ExportError("int8 needs calibration images and there are none; give --data")
    nncf = import_nncf()
    has_attention = any(node.get_type_name() in _ATTENTION for node in model.get_ops())
    names = [port.any_name for port in model.inputs]
    samples = [dict(zip(names, image, strict=True)) for image in images]
    tail = _float_tail(model, images[:_TRIED_IMAGES])
    with _silent():
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                subset_size=len(samples),
                model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
                ignored_scope=nncf.IgnoredScope(names=tail, validate=False),
            )
        except Exception as error:  # NNCF raises many kinds
            raise ExportError(f"NNCF cannot quantise this network: {one_line(error)}") from error


def _float_tail(model: Any, images: Sequence[tuple[NDArray[Any], ...]]) -> list[str]:
    """Names of what joins values of other scales: 8 bits for all would lose the small ones.

    It is what lies between the last products and outputs whose columns have wide scales, and those
    products where their own results have.
    """
    ends = [port.get_node().input_value(0) for port in model.outputs]
    wide = [end for end in ends if _is_wide(model, end, images)]
    found: dict[str, None] = {}
    stack = list(wide)
    while stack:
        value = stack.pop()
        node = value.get_node()
        name = node.get_friendly_name()
        is_product = node.get_type_name() in _PRODUCTS
        if name in found or (is_product and not _is_wide(model, value, images)):
            continue
        found[name] = None
        if not is_product:
            stack += [port.get_source_output() for port in node.inputs()]
    return list(found)


def _is_wide(model: Any, value: Any, images: Sequence[tuple[NDArray[Any], ...]]) -> bool:
    """Whether a value's columns lie far apart on these images."""
    openvino = import_openvino()
    compiled = openvino.compile_model(
        openvino.Model([value], model.get_parameters(), "value"), "CPU"
    )
    return has_wide_scales(np.concatenate([compiled(list(image))[0] for image in images]))


def _single_images(batches: Batches) -> Iterator[tuple[NDArray[Any], ...]]:
    """Each image as a batch of its own: NNCF takes the first dimension for one sample."""
    for arrays in batches:
        for index in range(len(arrays[0])):
            yield tuple(np.ascontiguousarray(array[index : index + 1]) for array in arrays)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF's log lines and progress bars from the user."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
