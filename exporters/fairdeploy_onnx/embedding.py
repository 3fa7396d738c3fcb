"""Puts preprocessing into the graph: uint8 images of any size in, scores out.

The same steps as for image files (``fairdeploy.records.image_preparation``): resized with Pillow's
antialiasing, cut or padded to the input's size, scaled to [0, 1] and normalised. Networks for
images of more than 8 bits take uint16. Pillow's fixed-point weights make a value differ by one of
255 here and there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from fairdeploy.errors import ExportError
from fairdeploy.records import Preprocessing
from fairdeploy.records.image_preparation import DEEP_WHITE, WHITE, scale_size
from fairdeploy_onnx.graph_changes import opset_of

IMAGES = "images"
"""Name of the new input, [batch, height, width, channels]."""
_FIRST_OPSET = 18
"""Resize has antialiasing from here on."""
_PREFIX = "preprocess"


def embed_preprocessing(model: Any, preprocessing: Preprocessing) -> None:
    """Let ``model`` take uint8 or uint16 images [N, H, W, C], RGB or grey (changes ``model``).

    Raises:
        ExportError: It takes several inputs or images of no fixed size, or its opset is too old.
    """
    import onnx  # optional library: imported when an exporter is really used

    old = _only_input(model, preprocessing)
    batch = old.type.tensor_type.shape.dim[0]
    new = onnx.helper.make_tensor_value_info(
        IMAGES,
        onnx.TensorProto.UINT16 if preprocessing.white else onnx.TensorProto.UINT8,
        [batch.dim_param or batch.dim_value, "height", "width", preprocessing.channels],
    )
    steps = _steps(preprocessing, old.name)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*steps.nodes, *rest])
    model.graph.initializer.extend(steps.weights())
    del model.graph.input[:]
    model.graph.input.append(new)


def add_softmax(model: Any, output: str) -> None:
    """Let ``output`` give probabilities in place of scores (changes ``model``).

    Raises:
        ExportError: It has other dimensions than images and classes.
    """
    import onnx  # optional library: imported when an exporter is really used

    value = next(value for value in model.graph.output if value.name == output)
    if len(value.type.tensor_type.shape.dim) != 2:
        raise ExportError(
            f"the output '{output}' is not one score per class; export without --probabilities"
        )
    scores = f"{output}_scores"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [scores if name == output else name for name in names]
    model.graph.node.append(
        onnx.helper.make_node("Softmax", [scores], [output], name="probabilities", axis=1)
    )


def _only_input(model: Any, preprocessing: Preprocessing) -> Any:
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input)
        raise ExportError(
            f"preprocessing can be embedded for one input of images only; this file takes {names}"
        )
    if opset_of(model) < _FIRST_OPSET:
        raise ExportError(
            f"preprocessing needs opset {_FIRST_OPSET} or newer for its resize, the file has "
            f"{opset_of(model)}; drop --opset"
        )
    value = model.graph.input[0]
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if tuple(sizes[1:]) != preprocessing.shape:
        raise ExportError(
            f"'{value.name}' takes {sizes[1:]}, and preprocessing makes "
            f"{list(preprocessing.shape)}; it can be embedded for images of one size only"
        )
    return value


class _Steps:
    """Collects nodes and their constants; all names begin with ``preprocess/``."""

    def __init__(self, result: str) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._result = result

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Add a node; the last one gives ``result``."""
        import onnx  # optional library: imported when an exporter is really used

        known = [name if name in ("", IMAGES) else f"{_PREFIX}/{name}" for name in inputs]
        made = output if output == self._result else f"{_PREFIX}/{output}"
        name = f"{_PREFIX}/{operator}_{output}"
        self.nodes.append(onnx.helper.make_node(operator, known, [made], name=name, **attributes))

    def weights(self) -> list[Any]:
        """The constants as initializers."""
        import onnx  # optional library: imported when an exporter is really used

        return [
            onnx.numpy_helper.from_array(array, f"{_PREFIX}/{name}")
            for name, array in self.constants.items()
        ]


def _steps(preprocessing: Preprocessing, result: str) -> _Steps:
    """From ``images`` to ``result``, in the order of ``image_preparation``."""
    import onnx  # optional library: imported when an exporter is really used

    steps, float32 = _Steps(result), onnx.TensorProto.FLOAT
    per_channel = {
        name: np.array(values, dtype=np.float64).reshape(1, -1, 1, 1)
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std))
    }
    white = preprocessing.white or WHITE
    steps.constants = {
        "size": np.array([preprocessing.height, preprocessing.width], dtype=np.int64),
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "axes": np.array([2, 3], dtype=np.int64),
        "black": np.array(0, dtype=np.float32),
        "highest": np.array(DEEP_WHITE if preprocessing.white else WHITE, dtype=np.float32),
        "scale": (1 / (white * per_channel["std"])).astype(np.float32),
        "shift": (-per_channel["mean"] / per_channel["std"]).astype(np.float32),
        "turned": np.array([2, 1, 0], dtype=np.int64),
    }
    steps.node("Cast", [IMAGES], "float", to=float32)
    steps.node("Transpose", ["float"], "planes", perm=[0, 3, 1, 2])
    steps.node("Shape", ["planes"], "found", start=2, end=4)
    _add_resized_size(steps, preprocessing)
    _add_resize(steps, preprocessing)
    _add_centre(steps, preprocessing)
    if preprocessing.channel_order == "bgr":
        steps.node("Gather", ["centre", "turned"], "ordered", axis=1)
    ordered = "ordered" if preprocessing.channel_order == "bgr" else "centre"
    steps.node("Mul", [ordered, "scale"], "scaled")
    steps.node("Add", ["scaled", "shift"], result)
    return steps


def _add_resize(steps: _Steps, preprocessing: Preprocessing) -> None:
    """``clipped`` of ``planes``: as Pillow first in width, then in height, to whole pixels."""
    attributes = _resize_attributes(preprocessing)
    steps.node("Gather", ["new_size", "zero"], "new_height", axis=0)
    steps.node("Gather", ["new_size", "one"], "new_width", axis=0)
    source = "planes"
    for side, axis, result in (("new_width", 3, "widened"), ("new_height", 2, "clipped")):
        steps.node("Resize", [source, "", "", side], f"{result}_raw", axes=[axis], **attributes)
        steps.node("Round", [f"{result}_raw"], f"{result}_rounded")
        steps.node("Clip", [f"{result}_rounded", "black", "highest"], result)
        source = result


def _resize_attributes(preprocessing: Preprocessing) -> dict[str, Any]:
    """As Pillow resizes.

    Raises:
        ExportError: ONNX has no such interpolation.
    """
    known: dict[str, dict[str, Any]] = {
        "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1},
        "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
        "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    }
    method = preprocessing.interpolation
    if method not in known:
        raise ExportError(
            f"ONNX cannot resize with '{method}', only with {', '.join(known)}; drop "
            "--embed-preprocess, run.py resizes as the network was trained"
        )
    return {"coordinate_transformation_mode": "half_pixel", **known[method]}


def _add_resized_size(steps: _Steps, preprocessing: Preprocessing) -> None:
    """``new_size`` from ``found``, both [height, width]."""
    import onnx  # optional library: imported when an exporter is really used

    double, int64 = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
    target = scale_size(asdict(preprocessing))
    steps.constants["target"] = np.array(target, dtype=np.int64)
    mode = preprocessing.crop_mode
    if mode == "squash":
        steps.node("Identity", ["target"], "new_size")
        return
    if mode == "center" and target[0] == target[1]:
        steps.node("ReduceMin", ["found"], "shorter", keepdims=1)
        steps.node("Mul", ["found", "target"], "stretched")
        steps.node("Div", ["stretched", "shorter"], "new_size")
        return
    steps.node("Cast", ["found"], "found_as_real", to=double)
    steps.node("Cast", ["target"], "target_as_real", to=double)
    steps.node("Div", ["found_as_real", "target_as_real"], "ratios")
    steps.node("ReduceMax" if mode == "border" else "ReduceMin", ["ratios"], "ratio", keepdims=0)
    steps.node("Div", ["found_as_real", "ratio"], "new_as_real")
    steps.node("Round", ["new_as_real"], "new_rounded")
    steps.node("Cast", ["new_rounded"], "new_whole", to=int64)
    steps.node("Max", ["new_whole", "one"], "new_size")


def _add_centre(steps: _Steps, preprocessing: Preprocessing) -> None:
    """``centre`` of ``clipped``, which gets borders where it is smaller than the input."""
    import onnx  # optional library: imported when an exporter is really used

    source = "clipped"
    if preprocessing.crop_mode == "border" or preprocessing.crop_pct > 1:
        source = _add_borders(steps, preprocessing)
    steps.node("Shape", [source], "lengths", start=2, end=4)
    steps.node("Sub", ["lengths", "size"], "excess")
    steps.node("Cast", ["excess"], "excess_as_real", to=onnx.TensorProto.DOUBLE)
    steps.constants["half"] = np.array(0.5, dtype=np.float64)
    steps.node("Mul", ["excess_as_real", "half"], "first_as_real")
    steps.node("Round", ["first_as_real"], "first_rounded")
    steps.node("Cast", ["first_rounded"], "first", to=onnx.TensorProto.INT64)
    steps.node("Add", ["first", "size"], "end")
    steps.node("Slice", [source, "first", "end", "axes"], "centre")


def _add_borders(steps: _Steps, preprocessing: Preprocessing) -> str:
    """Name of the image with borders; padding knows one value only, so black is moved to it."""
    fill = np.zeros(preprocessing.channels)
    if preprocessing.crop_mode == "border":
        mean = preprocessing.mean[:: -1 if preprocessing.channel_order == "bgr" else 1]
        fill = np.rint(np.rint(WHITE * np.array(mean)) / WHITE * (preprocessing.white or WHITE))
    steps.constants["fill"] = fill.reshape(1, -1, 1, 1).astype(np.float32)
    steps.node("Shape", ["clipped"], "unpadded", start=2, end=4)
    steps.node("Sub", ["size", "unpadded"], "lacking")
    steps.node("Max", ["lacking", "zero"], "missing")
    steps.node("Div", ["missing", "two"], "before")
    steps.node("Sub", ["missing", "before"], "after")
    steps.node("Concat", ["before", "after"], "pads", axis=0)
    steps.node("Sub", ["clipped", "fill"], "moved")
    steps.node("Pad", ["moved", "pads", "black", "axes"], "moved_padded")
    steps.node("Add", ["moved_padded", "fill"], "padded")
    return "padded"
