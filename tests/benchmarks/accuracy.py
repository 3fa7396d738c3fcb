"""What a cut in MACs costs in accuracy, with every repair and beside other pruners, in one table.

``python tests/benchmarks/accuracy.py --models FOLDER --images cifar10.zip --networks resnet20 vgg
--macs 70 50 35 --seeds 0 1 2 --peer-path FOLDER --output rows.json`` prunes trained CIFAR-10
networks (``<name>_cifar10jpeg.pt`` in ``--models``) to shares of their MACs, each pruner with the
same calibration images, and counts right answers on the same test images. ``--epochs 1`` adds rows
in which every pruner's network was trained on with the same images, order and settings. Rows that
``--output`` holds already are not made again. Mean and spread are over seeds, which choose the
calibration images.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.allocation.budget import parse_budgets
from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from fairdeploy.recovery.least_squares import fit_least_squares
from fairdeploy.scored_groups import group_scores
from fairdeploy.scoring import score_units
from fairdeploy.surgery.removal import remove_units
from tests.benchmarks.accuracy_peers import (
    PEERS,
    accuracy_of,
    count_macs,
    pruned_by_peer,
    trained,
    with_new_statistics,
)
from tests.benchmarks.cifar_images import read_images, shuffled
from tests.benchmarks.cifar_networks import NAMES, as_it_takes_them, trained_network

OURS = ("none", "batchnorm", "least-squares")
Made = tuple[str, Callable[[], nn.Module]]
"""The row's name, and what makes the network."""


@dataclass(frozen=True, slots=True)
class Images:
    """Of one seed; none is in two of them."""

    calibration: Tensor
    calibration_labels: Tensor
    training: Tensor
    training_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True, slots=True)
class Case:
    """A network with its images, cut by one seed."""

    name: str
    module: nn.Module
    seed: int
    images: Images

    def calibration(self) -> Tensor:
        """In the network's size."""
        return as_it_takes_them(self.images.calibration, self.name)


def main() -> None:
    """Make what is missing, then print the table."""
    options = _parse_options()
    sys.path.append(options.peer_path or "")
    rows: list[dict[str, Any]] = []
    if options.output and options.output.exists():
        rows = json.loads(options.output.read_text())
    known = {_key(row) for row in rows}
    for name in options.networks:
        for seed in options.seeds:
            for row in _rows(name, seed, options, known):
                rows.append(row)
                print(_shown(row), flush=True)
                if options.output:
                    options.output.write_text(json.dumps(rows, indent=0) + "\n")
    print("\n".join(_table(rows)))


def _rows(
    name: str, seed: int, options: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    case = Case(name, trained_network(name, options.models), seed, _images(options, seed))
    test = as_it_takes_them(case.images.test, name), case.images.test_labels
    original = accuracy_of(case.module, *test)
    example = case.calibration()[:2]
    whole = count_macs(case.module, example)
    ours = _ours(case, options.round_to)
    for percent in options.macs:
        for pruner, make in (*ours(percent / 100), *_peers(case, percent / 100, options)):
            for epochs in options.epochs:
                key = (name, percent, seed, pruner, epochs)
                if key in known or (epochs and pruner not in options.trained):
                    continue
                started = time.perf_counter()
                row = dict(zip(("network", "percent", "seed", "by", "epochs"), key, strict=True))
                try:
                    network = make()
                    if epochs:
                        images = case.images.training, case.images.training_labels
                        network = trained(network, *images, epochs, seed, example.shape[-1])
                    row |= {
                        "macs": count_macs(network, example) / whole,
                        "accuracy": accuracy_of(network, *test),
                    }
                except Exception as error:  # whatever a peer raises is the result
                    row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                seconds = round(time.perf_counter() - started, 1)
                yield row | {"original": original, "seconds": seconds}


def _ours(case: Case, round_to: int) -> Callable[[float], Iterator[Made]]:
    """By share of the MACs; scored once."""
    calibration = case.calibration()
    graph = build_unit_graph(case.module, (calibration[:2],))
    labelled = ImageSet(calibration, case.images.calibration_labels, "given")
    groups = group_scores(graph, score_units(graph, labelled, seed=case.seed), round_to)
    costs = CostModel(graph.cost_terms, len(graph.groups))

    def made(share: float) -> Iterator[Made]:
        allocation = search(groups, costs.costs, parse_budgets([f"macs={share:.0%}"]))
        removed = graph.removed_mask(allocation.removed)
        for repair in OURS:
            yield (
                f"fairdeploy {repair}",
                lambda repair=repair: _repaired(  # type: ignore[misc]
                    graph, removed, calibration, repair
                ),
            )

    return made


def _repaired(
    graph: UnitGraph, removed: NDArray[Any], calibration: Tensor, repair: str
) -> fx.GraphModule:
    shrunk = remove_units(graph, removed).module
    if repair == "batchnorm":
        reestimate_batchnorm(shrunk, calibration)
    if repair == "least-squares":
        fit_least_squares(graph, shrunk, removed, calibration)
    return shrunk


def _peers(case: Case, share: float, options: argparse.Namespace) -> Iterator[Made]:
    if options.peer_path is None:
        return
    calibration, labels = case.calibration(), case.images.calibration_labels
    for peer in options.peers:
        cache: list[nn.Module] = []

        def pruned(peer: str = peer, cache: list[nn.Module] = cache) -> nn.Module:
            if not cache:
                cache.append(pruned_by_peer(peer, case.module, calibration, labels, share))
            return copy.deepcopy(cache[0])

        yield peer, pruned
        if any(isinstance(layer, nn.BatchNorm2d) for layer in case.module.modules()):
            yield (
                f"{peer} batchnorm",
                lambda pruned=pruned: with_new_statistics(  # type: ignore[misc]
                    pruned(), calibration
                ),
            )


def _images(options: argparse.Namespace, seed: int) -> Images:
    """The seed chooses the calibration images among the training images."""
    images, labels = read_images(options.images, options.num_training)
    images, labels = shuffled(images, labels, seed)
    count = options.num_calibration
    test = read_images(options.images, options.num_test, "test")
    return Images(images[:count], labels[:count], images[count:], labels[count:], *test)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[part] for part in ("network", "percent", "seed", "by", "epochs"))


def _shown(row: dict[str, Any]) -> str:
    found = row.get("error") or f"{row['accuracy']:.2f} % at {row['macs']:.1%} of the MACs"
    trained_on = f" +{row['epochs']}" if row["epochs"] else ""
    return (
        f"{row['network']} {row['percent']} % seed {row['seed']} {row['by']}{trained_on}: {found} "
        f"(original {row['original']:.2f} %), {row['seconds']:.0f} s"
    )


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and spread over seeds: a line for each pruner, a column for each network and share."""
    cells: dict[tuple[str, int], dict[tuple[str, int], list[float]]] = {}
    originals: dict[str, list[float]] = {}
    for row in rows:
        if "error" in row:
            continue
        originals.setdefault(row["network"], []).append(row["original"])
        line = cells.setdefault((row["by"], row["epochs"]), {})
        line.setdefault((row["network"], row["percent"]), []).append(row["accuracy"])
    columns = sorted({column for line in cells.values() for column in line})
    heads = [f"{name} {percent} % ({fmean(originals[name]):.1f})" for name, percent in columns]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "--:|" * len(columns)
    for (pruner, epochs), line in cells.items():
        shown = [_mean(line.get(column, [])) for column in columns]
        yield f"| {pruner}{f' +{epochs} epochs' if epochs else ''} | " + " | ".join(shown) + " |"


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--macs", type=int, nargs="+", default=[70, 50, 35])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[0])
    parser.add_argument("--trained", nargs="+", default=["fairdeploy least-squares", *PEERS])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer-path")
    parser.add_argument("--num-calibration", type=int, default=512)
    parser.add_argument("--num-training", type=int, default=20_000)
    parser.add_argument("--num-test", type=int, default=5_000)
    parser.add_argument("--round-to", type=int, default=1, help="channel multiple of ours")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
