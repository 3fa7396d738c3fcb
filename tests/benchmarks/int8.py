"""What INT8 costs in accuracy on trained CIFAR-10 networks, unpruned.

``python tests/benchmarks/int8.py --models FOLDER --images cifar10.zip --networks resnet20 deit``
exports each network (``<name>_cifar10jpeg.pt`` in ``--models``) to ONNX, quantises the file as
``fairdeploy export --precision int8`` does, and prints a row of RESULTS.md for it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from torch import Tensor

from fairdeploy.graph.units import build_unit_graph
from fairdeploy_onnx import OnnxExporter
from tests.benchmarks.cifar_images import read_images, shuffled
from tests.benchmarks.cifar_networks import NAMES, as_it_takes_them, trained_network

SETTING = "fairdeploy.int8_"
KEPT = f"{SETTING}kept_in_float"
MB = 1e6


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--num-calibration", type=int, default=384)
    parser.add_argument("--num-test", type=int, default=5000)
    options = parser.parse_args()
    pool, _ = shuffled(*read_images(options.images, 2000, "train"), 0)
    test, labels = read_images(options.images, options.num_test, "test")
    print("| | fp32 | INT8 | same top-1 | MB, fp32 and INT8 | ranges, bits, operators | in float |")
    print("|---|--:|--:|--:|--:|---|--:|")
    for name in options.networks:
        calibration = as_it_takes_them(pool[: options.num_calibration], name)
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
            _write(name, options.models, calibration, *files)
            guesses = [_guesses(file, as_it_takes_them(test, name)) for file in files]
            print(_row(name, guesses, labels.numpy(), *files), flush=True)


def _write(name: str, models: Path, images: Tensor, fp32: Path, int8: Path) -> None:
    example = (images[:2],)
    graph = build_unit_graph(trained_network(name, models), example)
    exporter = OnnxExporter()
    exporter.export(graph.module, example, fp32, dynamic_batch=True, metadata={})
    exporter.convert(fp32, int8, "int8", tuple((part.numpy(),) for part in images.split(8)))


def _guesses(file: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part.numpy()})[0] for part in images.split(100)]
    return np.concatenate(parts).argmax(axis=1)


def _row(name: str, guesses: list[np.ndarray], labels: np.ndarray, fp32: Path, int8: Path) -> str:
    right = [f"{(found == labels).mean():.2%}" for found in guesses]
    sizes = ", ".join(f"{file.stat().st_size / MB:.2f}" for file in (fp32, int8))
    told = {prop.key: prop.value for prop in onnx.load(int8).metadata_props}
    num_layers = sum(
        node.op_type in ("Conv", "Gemm", "MatMul") for node in onnx.load(fp32).graph.node
    )
    kept = f"{len(json.loads(told[KEPT]))} of {num_layers}"
    same = f"{(guesses[0] == guesses[1]).mean():.1%}"
    return f"| {' | '.join((name, *right, same, sizes, _settings(told), kept))} |"


def _settings(told: Mapping[str, str]) -> str:
    return ", ".join(
        value for key, value in told.items() if key.startswith(SETTING) and key != KEPT
    )


if __name__ == "__main__":
    main()
