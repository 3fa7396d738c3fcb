"""Classifies images with an ONNX file that fairdeploy wrote: python run.py [--model FILE] IMAGE...

Needs Python 3.8, numpy and onnxruntime, and Pillow for image files; without it, give images as
.npy files (uint8, [height, width, 3]). Everything else is told by the file's own metadata.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairdeploy.records.image_preparation import prepared, read_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    Told = dict[str, Any]
    Answer = list[tuple[str, float]]

TOP = 5
SILENT = 4


def main(arguments: Sequence[str]) -> int:
    """Print the most likely classes of each image; returns the exit code."""
    parser = argparse.ArgumentParser(description="Classify images.")
    parser.add_argument("images", nargs="+", type=Path)
    default = Path(__file__).resolve().parent / "model.onnx"
    parser.add_argument("--model", type=Path, default=default, help="another file of this folder")
    parser.add_argument("--top", type=int, default=TOP, help="how many classes to print")
    parser.add_argument("--json", action="store_true", help="print one line of JSON an image")
    options = parser.parse_args(arguments)
    try:
        network = Network(options.model)
        for path in options.images:
            answer = network.classify(path, options.top)
            line = json.dumps({"image": str(path), "classes": answer})
            sys.stdout.write((line if options.json else as_text(path, answer)) + "\n")
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
        return 1
    return 0


class Network:
    """An ONNX file with what its metadata tells of it."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise ValueError(f"no file '{path}'; give one with --model")
        onnxruntime.set_default_logger_severity(SILENT)
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no public base
            raise ValueError(f"'{path}' cannot be opened as ONNX: {error}") from error
        told = self.session.get_modelmeta().custom_metadata_map
        preprocessing = json.loads(told.get("fairdeploy.preprocessing", "null"))
        if preprocessing is None or len(self.session.get_inputs()) != 1:
            raise ValueError(f"'{path}' does not take one image, or does not tell how")
        self.preprocessing: Told = preprocessing
        self.names: list[str] | None = json.loads(told.get("fairdeploy.classes", "null"))
        self.main = int(told.get("fairdeploy.main_output", "0"))
        self.gives_probabilities = told.get("fairdeploy.output") == "probabilities"
        self.input = self.session.get_inputs()[0]

    def classify(self, path: Path, top: int) -> Answer:
        """Names and probabilities of the most likely classes, the first first."""
        has_preprocessing = self.input.type in ("tensor(uint8)", "tensor(uint16)")
        pixels = read_pixels(path, self.preprocessing)
        image = pixels if has_preprocessing else prepared(pixels, self.preprocessing)
        if has_preprocessing and self.input.type == "tensor(uint8)" and image.dtype != np.uint8:
            raise ValueError(f"'{path}' has more than 8 bits a colour; the file takes 8")
        if self.input.type == "tensor(uint16)" and image.dtype == np.uint8:
            raise ValueError(f"'{path}' has 8 bits a colour; the file takes 16")
        batch = self.input.shape[0] if isinstance(self.input.shape[0], int) else 1
        images = np.repeat(image[None], batch, axis=0)
        scores = self.session.run(None, {self.input.name: images})[self.main][0]
        if scores.ndim != 1:
            raise ValueError("the network gives a map, not one score per class")
        shares = scores if self.gives_probabilities else softmax(scores)
        order = np.argsort(-shares, kind="stable")[:top]
        return [(self.name_of(int(index)), float(shares[index])) for index in order]

    def name_of(self, index: int) -> str:
        """Of a class, or its number."""
        names = self.names or []
        name = names[index] if index < len(names) else str(index)
        return "".join(letter if letter.isprintable() else "?" for letter in name)


def softmax(scores: Any) -> Any:
    """Scores as shares that sum to one."""
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return powers / powers.sum()


def as_text(path: Path, answer: Answer) -> str:
    """One line for people."""
    return f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
