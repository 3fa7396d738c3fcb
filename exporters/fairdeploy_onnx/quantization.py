"""INT8 files as ONNX Runtime's own tools write them: QDQ, static, weights per channel.

Two schemes. ``int8`` has activations with a zero point, which loses least and runs on CPUs;
``int8-symmetric`` has none and float biases, since TensorRT takes nothing else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.errors import ExportError
from fairdeploy_onnx.model_files import Batch, in_order, read_model
from fairdeploy_onnx.session import one_line

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Where the time goes."""
ALL_OPERATORS = (
    *PRODUCTS, "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool",
    "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""With what lies between them, so that values stay 8 bits wide from one product to the next.
Norms, softmax and gates stay in float: they lose most and gain least."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a network is computed in 8 bits."""

    name: str
    operators: tuple[str, ...]
    float_results: tuple[str, ...] = ()
    """Operators whose results are not rounded to 8 bits, only what goes in."""


EXTENTS = (
    Extent("all", ALL_OPERATORS),
    Extent("products", PRODUCTS),
    Extent("inputs of products", PRODUCTS, ("Gemm", "MatMul")),
)
"""The fastest first. Between the layers of a transformer values of a few channels are many times as
large as the others, so that 8 bits are too few for sums and results; products of matrices can give
floats, convolutions are fast only where they give 8 bits."""

METHODS = ("minmax", "percentile", "entropy")
_PERCENTILE = 99.99
_BATCHES_AT_ONCE = 2
"""The calibrators hold all intermediate values of what they are given in one go."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What 8-bit numbers stand for."""

    name: str
    is_symmetric: bool

    def options(self) -> dict[str, Any]:
        """For ``QDQQuantizer``."""
        if not self.is_symmetric:
            return {"WeightSymmetric": True}
        return {"WeightSymmetric": True, "ActivationSymmetric": True, "QuantizeBias": False}


SCHEMES = {
    scheme.name: scheme for scheme in (Scheme("int8", False), Scheme("int8-symmetric", True))
}


class _Reader:
    """Batches one after the other, as the calibrators ask for them."""

    def __init__(self, names: Sequence[str], batches: Sequence[Batch]) -> None:
        self._feeds = iter([dict(zip(names, batch, strict=True)) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None after the last."""
        return next(self._feeds, None)


def foldable_copy(path: Path) -> Any:
    """The model with constants and batch norms folded and all shapes known.

    Raises:
        ExportError: ONNX Runtime cannot read it.
    """
    from onnxruntime.quantization import quant_pre_process  # optional library

    read_model(path)  # refuses what is not ONNX
    with tempfile.TemporaryDirectory() as scratch, quiet():
        prepared = Path(scratch) / "prepared.onnx"
        try:
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        except Exception as error:  # a library may raise anything
            raise ExportError(
                f"'{path.name}' cannot be prepared for INT8: {one_line(error)}"
            ) from error
        folded = read_model(prepared)
    _drop_unused_domains(folded)
    return folded


def _drop_unused_domains(model: Any) -> None:
    """ONNX Runtime lists all operator sets that it knows (changes ``model``)."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def value_ranges(model: Any, method: str, batches: Sequence[Batch]) -> Any:
    """Ranges of all intermediate values on ``batches``, for ``quantized``.

    Args:
        model: From ``foldable_copy``.
        method: One of ``METHODS``.
        batches: Real inputs.
    """
    import onnx  # optional library: imported when an exporter is really used
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    names = [value.name for value in model.graph.input]
    options: dict[str, Any] = {"symmetric": False}
    if method == "percentile":
        options["percentile"] = _PERCENTILE
    with tempfile.TemporaryDirectory() as scratch, quiet():
        onnx.save(model, Path(scratch) / "model.onnx")
        calibrator = create_calibrator(
            Path(scratch) / "model.onnx",
            ALL_OPERATORS,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=methods[method],
            extra_options=options,
        )
        for start in range(0, len(batches), _BATCHES_AT_ONCE):
            calibrator.collect_data(_Reader(names, batches[start : start + _BATCHES_AT_ONCE]))
        return calibrator.compute_data()


def quantized(
    model: Any,
    ranges: Any,
    scheme: Scheme,
    extent: Extent,
    *,
    kept: Collection[str] = (),
    only: Sequence[str] = (),
    has_7_bit_weights: bool = False,
) -> Any:
    """``model`` with pairs of QuantizeLinear and DequantizeLinear around its operators.

    Args:
        model: From ``foldable_copy``; not changed.
        ranges: From ``value_ranges``.
        scheme: What the numbers stand for.
        extent: Which kinds are quantised, and where.
        kept: Names of nodes that stay in float.
        only: Names of the only nodes to quantise; empty: all.
        has_7_bit_weights: So that sums of products do not overflow in 16 bits, as they do on x86
            processors without VNNI.
    """
    import onnx  # optional library: imported when an exporter is really used
    from onnxruntime.quantization import QDQQuantizer, QuantType

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with quiet():
        quantizer = QDQQuantizer(
            copy, True, has_7_bit_weights, QuantType.QInt8, QuantType.QInt8, ranges,
            list(only), list(kept), list(extent.operators),
            scheme.options() | {"OpTypesToExcludeOutputQuantization": list(extent.float_results)},
        )  # fmt: skip
        quantizer.quantize_model()
    return in_order(quantizer.model.model)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's tools log and print from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
