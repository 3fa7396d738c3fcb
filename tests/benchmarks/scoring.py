"""Time and check the scoring pass, beside the bare pass and the reference implementation.

Example:
    python tests/benchmarks/scoring.py --weights resnet20.pt --images cifar10.zip --depth 20 \\
        --num-images 320 --reference --reference-path FOLDER --output result.json

``FOLDER`` is what ``pip install --target FOLDER --no-deps network-pruner==2.16`` wrote. Everything
runs in one process on the same images with the same number of threads. Two ratios come out: the
reference's time over ours, and our time over the bare forward and backward pass (medians of
interleaved runs). Rank correlations are Spearman's, layer by layer, with the reference kept in
eval mode; R is compared by convolution weights, which is what the reference sums, and also as
scored, which includes norm affine parameters.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cifar_images import read_images, shuffled
from cifar_resnet import CifarResNet
from scoring_agreement import layer_agreement, measured_modules, summary
from scoring_reference import ReferenceScores, add_reference_path, reference_scores
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring import DEFAULT_PROJECTIONS, score_units
from fairdeploy.scoring.collector import batch_size


def main() -> None:
    """Run the benchmark and print its summary; write everything to ``--output``."""
    options = _options()
    torch.set_num_threads(options.threads)
    add_reference_path(options.reference_path)
    model = CifarResNet(options.depth)
    model.load_state_dict(torch.load(options.weights, weights_only=True))
    model.eval()
    images, labels = shuffled(*read_images(options.images, options.num_images), options.seed)
    own = OwnTimes(model, images, labels, options)
    own.measure()
    record = _record(options)
    if options.reference:
        record["reference"] = _reference(own, options)
        own.measure()  # again, so that a change of the machine's load shows in the medians
    record |= own.summary()
    _print_summary(record)
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


class OwnTimes:
    """Interleaved times of the bare forward and backward pass and of the whole scoring."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace
    ) -> None:
        self.model, self.images, self.labels = model, images, labels
        start = time.perf_counter()
        self.graph = build_unit_graph(model, (images[:2],))
        self._graph_s = time.perf_counter() - start
        self.batch = batch_size(self.graph, len(images))
        self._options = options
        self._wall: dict[str, list[float]] = {"bare": [], "scoring": []}
        self._cpu: dict[str, list[float]] = {"bare": [], "scoring": []}

    def measure(self) -> None:
        """Add ``--repetitions`` runs of each, after one warm-up of each."""
        for repetition in range(self._options.repetitions + 1):
            for name, step in (("bare", self._bare), ("scoring", self._score)):
                wall_s, cpu_s = _timed(step)
                if repetition > 0:
                    self._wall[name].append(wall_s)
                    self._cpu[name].append(cpu_s)
        self.model.zero_grad(set_to_none=True)

    def summary(self) -> dict[str, Any]:
        """Raw seconds, medians, and the ratio of medians by wall clock and by processor time."""
        wall = {name: statistics.median(times) for name, times in self._wall.items()}
        cpu = {name: statistics.median(times) for name, times in self._cpu.items()}
        return {
            "num_units": self.graph.num_units,
            "batch_size": self.batch,
            "unit_graph_s": self._graph_s,
            "wall_s": self._wall,
            "cpu_s": self._cpu,
            "median_wall_s": wall,
            "median_cpu_s": cpu,
            "scoring_to_bare_wall": wall["scoring"] / wall["bare"],
            "scoring_to_bare_cpu": cpu["scoring"] / cpu["bare"],
        }

    def _bare(self) -> None:
        _bare_pass(self.model, self.images, self.labels, self.batch)

    def _score(self) -> None:
        options = self._options
        image_set = ImageSet(self.images, self.labels, "given")
        score_units(self.graph, image_set, seed=options.seed, num_projections=options.projections)


def _timed(step: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock and processor seconds; the latter suffers less from other load."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def _bare_pass(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
    for start in range(0, len(images), batch):
        logits = model(images[start : start + batch])
        torch.autograd.backward(F.cross_entropy(logits, labels[start : start + batch]))


def _reference(own: OwnTimes, options: argparse.Namespace) -> dict[str, Any]:
    """Time the reference and compare its scores with ours; prints the layers as it goes."""
    found: dict[str, Any] = {}
    modes = {"eval": [True], "shipped": [False], "both": [False, True]}[options.reference_mode]
    for in_eval_mode in modes:
        scores = reference_scores(
            own.model,
            own.images,
            own.labels,
            measured_at=measured_modules(own.model),
            batch_size=own.batch,
            in_eval_mode=in_eval_mode,
            seed=options.seed,
        )
        name = "eval" if in_eval_mode else "shipped"
        found[name] = {"wall_s": scores.wall_s, "cpu_s": scores.cpu_s}
        if in_eval_mode:
            found |= _agreement(own, options, scores)
    return found


def _agreement(
    own: OwnTimes, options: argparse.Namespace, scores: ReferenceScores
) -> dict[str, Any]:
    image_set = ImageSet(own.images, own.labels, "given")
    layers = layer_agreement(own.graph, image_set, scores, options.seed, options.projections)
    for name, layer in layers.items():
        shown = ", ".join(f"{key} {value:.4f}" for key, value in layer.items())
        print(f"  {name:20s} {shown}")
    return {"layers": layers, "summary": summary(layers)}


def _record(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "depth": options.depth,
        "num_images": options.num_images,
        "num_projections": options.projections,
        "seed": options.seed,
        "threads": options.threads,
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "reference": None,
    }


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _print_summary(record: dict[str, Any]) -> None:
    wall, cpu = record["median_wall_s"], record["median_cpu_s"]
    print(
        f"ResNet-{record['depth']}, {record['num_images']} images, {record['num_units']} units, "
        f"{record['threads']} threads, batches of {record['batch_size']}; "
        "seconds by wall clock (processor)"
    )
    print(f"bare forward+backward: {wall['bare']:.2f} ({cpu['bare']:.2f}), median")
    print(f"scoring: {wall['scoring']:.2f} ({cpu['scoring']:.2f}), median")
    print(
        f"scoring / bare: {record['scoring_to_bare_wall']:.2f} "
        f"({record['scoring_to_bare_cpu']:.2f})"
    )
    reference = record["reference"] or {}
    for name in ("shipped", "eval"):
        if name in reference:
            times = reference[name]
            print(
                f"reference, {name}: {times['wall_s']:.1f} ({times['cpu_s']:.1f}), "
                f"{times['wall_s'] / wall['scoring']:.0f} "
                f"({times['cpu_s'] / cpu['scoring']:.0f}) times ours"
            )
    for name, value in reference.get("summary", {}).items():
        print(f"{name}: {value:.4f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="state dict of the network")
    parser.add_argument("--images", type=Path, required=True, help="image folder, or a zip of one")
    parser.add_argument("--depth", type=int, default=20, help="20 or 56")
    parser.add_argument("--num-images", type=int, default=320)
    parser.add_argument("--projections", type=int, default=DEFAULT_PROJECTIONS)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", action="store_true", help="run the reference too (minutes)")
    parser.add_argument("--reference-path", type=Path, help="folder that holds network-pruner")
    parser.add_argument("--reference-mode", choices=["eval", "shipped", "both"], default="both")
    parser.add_argument("--output", type=Path, help="JSON file for raw times and correlations")
    return parser.parse_args()


if __name__ == "__main__":
    main()
