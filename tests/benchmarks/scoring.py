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
import sys
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
    record = _record(options) | _own_times(model, images, labels, options)
    _print_own(record)
    if options.reference:
        record["reference"] = _reference(model, images, labels, options, record)
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def _own_times(
    model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Interleaved times of the bare pass and of the whole scoring, after one warm-up of each."""
    start = time.perf_counter()
    graph = build_unit_graph(model, (images[:2],))
    graph_seconds = time.perf_counter() - start
    image_set = ImageSet(images, labels, "given")
    batch = batch_size(graph, len(images))
    steps: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare_pass(model, images, labels, batch),
        "scoring": lambda: score_units(
            graph, image_set, seed=options.seed, num_projections=options.projections
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(options.repetitions + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repetition > 0:
                seconds[name].append(time.perf_counter() - start)
    model.zero_grad(set_to_none=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "num_units": graph.num_units,
        "batch_size": batch,
        "unit_graph_s": graph_seconds,
        "bare_s": seconds["bare"],
        "scoring_s": seconds["scoring"],
        "median_bare_s": medians["bare"],
        "median_scoring_s": medians["scoring"],
        "ratio_to_bare": medians["scoring"] / medians["bare"],
    }


def _bare_pass(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
    for start in range(0, len(images), batch):
        logits = model(images[start : start + batch])
        torch.autograd.backward(F.cross_entropy(logits, labels[start : start + batch]))


def _reference(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Time the reference and compare its scores with ours; prints as it goes."""
    found: dict[str, Any] = {}
    modes = {"eval": [True], "shipped": [False], "both": [False, True]}[options.reference_mode]
    for in_eval_mode in modes:
        scores = reference_scores(
            model,
            images,
            labels,
            measured_at=measured_modules(model),
            batch_size=record["batch_size"],
            in_eval_mode=in_eval_mode,
            seed=options.seed,
        )
        name = "eval" if in_eval_mode else "shipped"
        ratio = scores.seconds / record["median_scoring_s"]
        found[f"{name}_s"] = scores.seconds
        found[f"ratio_{name}_to_scoring"] = ratio
        print(f"reference ({name}): {scores.seconds:.1f} s, {ratio:.0f} times ours")
        if in_eval_mode:
            found |= _agreement(model, images, labels, options, scores)
    return found


def _agreement(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    scores: ReferenceScores,
) -> dict[str, Any]:
    graph = build_unit_graph(model, (images[:2],))
    image_set = ImageSet(images, labels, "given")
    layers = layer_agreement(graph, image_set, scores, options.seed, options.projections)
    for name, layer in layers.items():
        shown = ", ".join(f"{key} {value:.4f}" for key, value in layer.items())
        print(f"  {name:20s} {shown}")
    totals = summary(layers)
    for name, value in totals.items():
        print(f"{name}: {value:.4f}")
    return {"layers": layers, "summary": totals}


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


def _print_own(record: dict[str, Any]) -> None:
    print(
        f"ResNet-{record['depth']}, {record['num_images']} images, {record['num_units']} units, "
        f"{record['threads']} threads, batches of {record['batch_size']}"
    )
    print(f"bare forward+backward: {record['median_bare_s']:.2f} s (median)")
    print(f"scoring: {record['median_scoring_s']:.2f} s (median)")
    print(f"scoring / bare: {record['ratio_to_bare']:.2f}")


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
    sys.exit(main())
