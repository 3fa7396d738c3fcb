"""Accuracy of shrunk CIFAR ResNets before and after repair, from real weights and images.

Run from the repository's root, with the weights and the images wherever they are:

    python tests/benchmarks/recovery_trial.py --weights resnet56.pt --depth 56 --images cifar10.zip

or time and peak memory on a large network with random images:

    python tests/benchmarks/recovery_trial.py --timm resnet50 --num-calibration 256 --budget 60
"""

from __future__ import annotations

import argparse
import copy
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from fairdeploy.records import GroupScores, ImageSet, RecoverySummary, default_multiple
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.judgement import Judge, divided
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.recovery.training.distillation import distil
from fairdeploy.runs.stages.groups import group_scores
from fairdeploy.scoring import score_units
from fairdeploy.settings.budgets import parse_budgets
from fairdeploy.settings.target_profiles import load_profile
from fairdeploy.surgery.removal import remove_units

sys.path.insert(0, str(Path(__file__).parent))

from cifar_images import read_images, shuffled
from cifar_resnet import CifarResNet


@dataclass(frozen=True, slots=True)
class Trial:
    """A network with its calibration and test images; without weights both are noise."""

    module: nn.Module
    calibration: ImageSet
    test: tuple[Tensor, Tensor] | None


def main() -> None:
    """Print a table: a row for each budget, a column for each step."""
    options = _parse_options()
    torch.set_num_threads(options.threads)
    trial = _noise_trial(options) if options.timm else _cifar_trial(options)
    graph = build_unit_graph(trial.module, (trial.calibration.images[:2],))
    started = time.perf_counter()
    groups = _scored_groups(graph, trial.calibration)
    print(f"scored {graph.num_units} units in {time.perf_counter() - started:.1f} s")
    print(
        "budget  params  original     raw  batchnorm  least squares   seconds  distilled   seconds"
        "  peak GB"
    )
    for budget in options.budget:
        print(_row(graph, groups, trial, budget, options), flush=True)


def _row(
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    trial: Trial,
    percent: int,
    options: argparse.Namespace,
) -> str:
    removed = _removed_units(graph, groups, f"{options.metric}={percent}%")
    counted = [remove_units(graph, removed).module for _ in range(3)]
    raw, normed, fitted = counted
    if trial.test is not None:
        reestimate_batchnorm(normed, trial.calibration.images)
    summary = fit_least_squares(graph, fitted, removed, trial.calibration.images)
    distilled, seconds = copy.deepcopy(fitted), 0.0
    if options.distil:
        learned, held_out = divided(trial.calibration)
        result = distil(graph, distilled, removed, learned.images, Judge(graph, held_out))
        print("   ", result, file=sys.stderr, flush=True)
        seconds = result.seconds if result else 0.0
    cells = [
        _accuracy(network, trial) for network in (graph.module, raw, normed, fitted, distilled)
    ]
    share = 100 * _num_params(fitted) / _num_params(graph.module)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    _print_layers(summary)
    return (
        f"{percent:5d}%  {share:5.1f}%  {cells[0]:>8}  {cells[1]:>6}  {cells[2]:>9}"
        f"  {cells[3]:>13}  {summary.seconds:8.1f}  {cells[4]:>9}  {seconds:8.1f}  {peak_gb:7.2f}"
    )


def _print_layers(summary: RecoverySummary) -> None:
    for fit in summary.layers:
        print("   ", fit, file=sys.stderr)


def _scored_groups(graph: UnitGraph, calibration: ImageSet) -> tuple[GroupScores, ...]:
    scores = score_units(graph, calibration, seed=0)
    return group_scores(graph, scores, default_multiple(load_profile("cpu")))


def _removed_units(
    graph: UnitGraph, groups: tuple[GroupScores, ...], budget: str
) -> NDArray[np.bool_]:
    costs = CostModel(graph.cost_terms, len(graph.groups))
    allocation = search(groups, costs.costs, parse_budgets([budget]))
    return graph.removed_mask(allocation.removed)


def _accuracy(network: fx.GraphModule, trial: Trial) -> str:
    if trial.test is None:
        return "-"
    images, labels = trial.test
    with torch.no_grad():
        guesses = torch.cat([network(batch).argmax(dim=1) for batch in torch.split(images, 250)])
    return f"{100 * (guesses == labels).float().mean().item():.2f}"


def _num_params(module: fx.GraphModule) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _cifar_trial(options: argparse.Namespace) -> Trial:
    module = CifarResNet(options.depth)
    module.load_state_dict(torch.load(options.weights, weights_only=True))
    images, labels = shuffled(*read_images(options.images, options.num_calibration), seed=0)
    test = read_images(options.images, options.num_test, "test")
    return Trial(module.eval(), ImageSet(images, labels, "given"), test)


def _noise_trial(options: argparse.Namespace) -> Trial:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(options.timm, zero_init_last=False).eval()
    images = torch.randn(options.num_calibration, 3, options.size, options.size)
    labels = torch.arange(len(images)) % 10
    return Trial(module, ImageSet(images, labels, "given", is_synthetic=True), None)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, help="state dict of a CIFAR ResNet")
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--images", type=Path, help="image folder or zip with train/ and test/")
    parser.add_argument("--timm", help="a timm network with random weights instead")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--budget", type=int, nargs="+", default=[60], help="per cent")
    parser.add_argument("--metric", default="params", choices=("params", "macs"))
    parser.add_argument("--distil", action="store_true", help="distil after least squares")
    parser.add_argument("--num-calibration", type=int, default=512)
    parser.add_argument("--num-test", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
