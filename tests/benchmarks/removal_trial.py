"""What removal signals and reluctant residual streams are worth, after the least-squares repair.

``python tests/benchmarks/removal_trial.py --models FOLDER --images cifar10.zip --network resnet20
--macs 50 35 --signal u reconstruction --reluctance 0 0.5 --seeds 0 1 2`` prints accuracy without
any training for every combination: mean over seeds, and each. A seed draws the calibration images,
the scores' random directions and the positions that the fit looks at. ``--part selection`` tests on
images that no reported figure uses: choices are made there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import GroupScores, ImageSet, UnitScores
from fairdeploy.recovery.least_squares.fit import fit_least_squares
from fairdeploy.runs.stages.groups import group_scores, removed_units
from fairdeploy.scoring import score_units
from fairdeploy.scoring.reconstructability import reconstruction_scores
from fairdeploy.settings.budgets import parse_budgets
from fairdeploy.surgery.removal import remove_units

sys.path.insert(0, str(Path(__file__).parent))

from cifar_images import read_images, shuffled
from cifar_networks import NAMES, as_it_takes_them, trained_network

NUM_TRAIN, PER_CLASS = 8_000, 200


@dataclass(frozen=True, slots=True)
class Trial:
    """A scored network with its images."""

    graph: UnitGraph
    calibration: ImageSet
    test: tuple[Tensor, Tensor]
    scores: UnitScores
    signals: Mapping[str, NDArray[np.float64]]


def main() -> None:
    """Print the table, and write each run's figures."""
    options = _parse_options()
    torch.set_num_threads(options.threads)
    print(f"{'network':<9} {'MACs':>5} {'signal':<15} {'reluctance':>10} {'mean':>6}  each")
    rows = []
    for name in options.network:
        trials = [_trial(name, seed, options) for seed in options.seeds]
        whole = [_accuracy(trial.graph.module, trial.test) for trial in trials]
        print(f"{name:<9}  100% {'':<26} {statistics.mean(whole):6.2f}", flush=True)
        for macs, signal, reluctance in itertools.product(
            options.macs, options.signal, options.reluctance
        ):
            found = [
                _repaired(trial, macs, signal, reluctance, options.channel_multiple, seed)
                for trial, seed in zip(trials, options.seeds, strict=True)
            ]
            print(
                f"{name:<9} {macs:>4}% {signal:<15} {reluctance:>10} {statistics.mean(found):6.2f}"
                f"  {' '.join(f'{value:.2f}' for value in found)}",
                flush=True,
            )
            rows.append(
                {"network": name, "macs": macs, "signal": signal, "reluctance": reluctance,
                 "seeds": options.seeds, "original": whole, "accuracy": found}
            )  # fmt: skip
    if options.output:
        options.output.write_text(json.dumps({"options": vars(options), "rows": rows}, default=str))


def _trial(name: str, seed: int, options: argparse.Namespace) -> Trial:
    module = trained_network(name, options.models)
    images, labels = shuffled(*read_images(options.images, NUM_TRAIN), seed)
    chosen = as_it_takes_them(images[: options.num_calibration], name)
    calibration = ImageSet(chosen, labels[: options.num_calibration], "given")
    graph = build_unit_graph(module, (chosen[:2],))
    scores = score_units(graph, calibration, seed=seed)
    signals = {"u": scores.u}
    if "reconstruction" in options.signal:
        found, is_read = reconstruction_scores(graph, calibration, seed=seed)
        signals["reconstruction"] = np.where(is_read, found, scores.u)
    return Trial(graph, calibration, _test_images(name, options), scores, signals)


def _test_images(name: str, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The first images of each class, or for choices those after them."""
    images, labels = read_images(options.images, 20 * PER_CLASS, "test")
    first = 0 if options.part == "test" else PER_CLASS
    part = torch.arange(len(labels)).reshape(10, -1)[:, first : first + PER_CLASS].flatten()
    return as_it_takes_them(images[part], name), labels[part]


def _repaired(
    trial: Trial, macs: int, signal: str, reluctance: float, multiple: int, seed: int
) -> float:
    scores = replace(trial.scores, u=trial.signals[signal])
    groups = tuple(_reluctant(trial.graph, scores, multiple, reluctance))
    costs = CostModel(trial.graph.cost_terms, len(groups))
    allocation = search(groups, costs.costs, parse_budgets([f"macs={macs}%"]))
    removed = removed_units(trial.graph, groups, allocation)
    shrunk = remove_units(trial.graph, removed).module
    fit_least_squares(trial.graph, shrunk, removed, trial.calibration.images, seed=seed)
    return _accuracy(shrunk, trial.test)


def _reluctant(
    graph: UnitGraph, scores: UnitScores, multiple: int, reluctance: float
) -> Iterator[GroupScores]:
    for group, scored in zip(graph.groups, group_scores(graph, scores, multiple), strict=True):
        yield replace(scored, reluctance=reluctance if group.is_summed else 0.0)


def _accuracy(network: fx.GraphModule, test: tuple[Tensor, Tensor]) -> float:
    images, labels = test
    with torch.no_grad():
        guesses = torch.cat([network(batch).argmax(dim=1) for batch in torch.split(images, 250)])
    return 100 * (guesses == labels).float().mean().item()


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, required=True, help="folder of state dicts")
    parser.add_argument("--images", type=Path, required=True, help="folder or zip")
    parser.add_argument("--network", nargs="+", choices=NAMES, default=["resnet20"])
    parser.add_argument("--macs", type=int, nargs="+", default=[50, 35])
    parser.add_argument("--signal", nargs="+", choices=("u", "reconstruction"), default=["u"])
    parser.add_argument("--reluctance", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", choices=("test", "selection"), default="test")
    parser.add_argument("--channel-multiple", type=int, default=8)
    parser.add_argument("--num-calibration", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
