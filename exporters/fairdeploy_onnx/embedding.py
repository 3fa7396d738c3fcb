"""Puts preprocessing into the graph: uint8 images of any size in, scores out.

The same steps as for image files: the shorter side is scaled to just cover the input (bicubic with
antialiasing, as Pillow does it), the centre is cut out, pixels are scaled to [0, 1] and normalised.
Pillow rounds to whole pixel values between its two passes, ONNX Runtime does not: a value differs
by one of 255 here and there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fairdeploy.errors import ExportError
from fairdeploy.records import Preprocessing
from fairdeploy_onnx.graph_changes import opset_of

IMAGES = "images"
"""Name of the new input, [batch, height, width, channels]."""
_FIRST_OPSET = 18
"""Resize has antialiasing from here on."""
_PREFIX = "preprocess"


def embed_preprocessing(model: Any, preprocessing: Preprocessing) -> None:
    """Let ``model`` take uint8 images [N, H, W, C], RGB or grey (changes ``model``).

    Raises:
        ExportError: It takes several inputs or images of no fixed size, or its opset is too old.
    """
    import onnx  # optional library: imported when an exporter is really used

    old = _only_input(model, preprocessing)
    batch = old.type.tensor_type.shape.dim[0]
    new = onnx.helper.make_tensor_value_info(
        IMAGES,
        onnx.TensorProto.UINT8,
        [batch.dim_param or batch.dim_value, "height", "width", preprocessing.channels],
    )
    nodes, weights = _steps(preprocessing, IMAGES, old.name)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(weights)
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


def _steps(preprocessing: Preprocessing, source: str, result: str) -> tuple[list[Any], list[Any]]:
    """Nodes from ``source`` to ``result``, and their constants."""
    import onnx  # optional library: imported when an exporter is really used

    mean = np.array(preprocessing.mean, dtype=np.float64).reshape(1, -1, 1, 1)
    std = np.array(preprocessing.std, dtype=np.float64).reshape(1, -1, 1, 1)
    constants: dict[str, Any] = {
        "size": np.array([preprocessing.height, preprocessing.width], dtype=np.int64),
        "size_as_real": np.array([preprocessing.height, preprocessing.width], dtype=np.float64),
        "two": np.array([2], dtype=np.int64),
        "axes": np.array([2, 3], dtype=np.int64),
        "black": np.array(0, dtype=np.float32),
        "white": np.array(255, dtype=np.float32),
        "scale": (1 / (255 * std)).astype(np.float32),
        "shift": (-mean / std).astype(np.float32),
    }

    def named(*names: str) -> list[str]:
        return [f"{_PREFIX}/{name}" if name else "" for name in names]

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        outputs = [output] if output == result else named(output)
        name = f"{_PREFIX}/{operator}_{outputs[0].rpartition('/')[2]}"
        return onnx.helper.make_node(operator, inputs, outputs, name=name, **attributes)

    nodes = [
        node("Cast", [source], "float", to=onnx.TensorProto.FLOAT),
        node("Transpose", named("float"), "planes", perm=[0, 3, 1, 2]),
        node("Shape", named("planes"), "found", start=2, end=4),
        node("Cast", named("found"), "found_as_real", to=onnx.TensorProto.DOUBLE),
        node("Div", named("size_as_real", "found_as_real"), "factors"),
        node("ReduceMax", named("factors"), "factor", keepdims=0),
        node("Mul", named("found_as_real", "factor"), "covering"),
        node("Round", named("covering"), "covering_rounded"),
        node("Cast", named("covering_rounded"), "covering_whole", to=onnx.TensorProto.INT64),
        node("Max", named("covering_whole", "size"), "covering_size"),
        node(
            "Resize", named("planes", "", "", "covering_size"), "resized",
            axes=[2, 3], mode="cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        ),
        node("Round", named("resized"), "rounded"),
        node("Clip", named("rounded", "black", "white"), "clipped"),
        node("Shape", named("clipped"), "lengths", start=2, end=4),
        node("Sub", named("lengths", "size"), "excess"),
        node("Div", named("excess", "two"), "first"),
        node("Add", named("first", "size"), "end"),
        node("Slice", named("clipped", "first", "end", "axes"), "centre"),
        node("Mul", named("centre", "scale"), "scaled"),
        node("Add", named("scaled", "shift"), result),
    ]  # fmt: skip
    weights = [
        onnx.numpy_helper.from_array(array, named(name)[0]) for name, array in constants.items()
    ]
    return nodes, weights
