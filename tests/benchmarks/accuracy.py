"""What a cut in MACs costs in accuracy, with every repair and beside other pruners.

``python tests/benchmarks/accuracy.py --models FOLDER --images cifar10.zip --networks resnet20 vgg
--macs 70 50 35 --seeds 0 1 2 --peer-path FOLDER --output rows.json`` prunes trained CIFAR-10
networks (``<name>_cifar10jpeg.pt`` in ``--models``) to shares of their MACs, each pruner with the
same calibration images, and counts right answers on the same test images. ``--epochs 0 1`` adds
rows in which every pruner's network was trained on with the same images and order, at the learning
rate that gave it most right answers on other images. Mean and spread are over seeds, which choose
the calibration images.

Rows that ``--output`` holds already are not made again, so that a run can be broken off. Several
may run side by side, each with its own ``--output``; ``--table A.json B.json`` prints the tables of
what is in any number of files, and makes nothing.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.accuracy_case import Case, Images, with_new_statistics
from tests.benchmarks.accuracy_ours import REPAIRS, SIGNALS, OurPruner
from tests.benchmarks.accuracy_peers import LOOKS_AT_IMAGES, PEERS, pruned_by_torch_pruning
from tests.benchmarks.accuracy_reference import REFERENCE, ReferencePruner
from tests.benchmarks.accuracy_table import key_of, merged, shown, tables
from tests.benchmarks.cifar_images import read_images
from tests.benchmarks.cifar_networks import NAMES, trained_network

NUM_POOL = 20_000
"""Training images that the seeds choose from."""
NUM_SELECTION = 1_000
"""Of them, to choose learning rates with."""
TRAINED = [*(f"fairdeploy {signal} least-squares" for signal in SIGNALS), *PEERS, REFERENCE]
Make = Callable[[], nn.Module]
Cache = dict[tuple[Any, ...], nn.Module]


def main() -> None:
    """Make what is missing, then print the tables."""
    options = _parse_options()
    if options.table:
        print("\n".join(tables(merged(options.table))))
        return
    torch.set_num_threads(options.threads)
    sys.path.extend(options.peer_path)
    rows = merged([options.output]) if options.output and options.output.exists() else []
    known = {key_of(row) for row in rows}
    for name in options.networks:
        module = trained_network(name, options.models)
        cache: Cache = {}
        for seed in options.seeds:
            case = Case(name, module, seed, _images(options, seed), torch.device(options.device))
            for row in _rows(case, options, known, cache):
                rows.append(row)
                print(shown(row), flush=True)
                if options.output:
                    _write(rows, options.output)
    print("\n".join(tables(rows)))


def _rows(
    case: Case, options: argparse.Namespace, known: set[tuple[Any, ...]], cache: Cache
) -> Iterator[dict[str, Any]]:
    for num_scoring, num_projections in itertools.product(
        options.num_scoring, options.num_projections
    ):
        settings = {
            "num_calibration": options.num_calibration, "num_scoring": num_scoring,
            "num_projections": num_projections, "round_to": options.round_to,
        }  # fmt: skip
        ours = OurPruner(case, options.signals, options.round_to, num_scoring, num_projections)
        yield from _rows_with(case, ours, settings, options, known, cache)


def _rows_with(
    case: Case,
    ours: OurPruner,
    settings: dict[str, int],
    options: argparse.Namespace,
    known: set[tuple[Any, ...]],
    cache: Cache,
) -> Iterator[dict[str, Any]]:
    pruners = _pruners(case, ours, options, cache)
    for percent in options.macs:
        makes = dict(pruners(percent))
        for epochs in options.epochs:
            rates = options.learning_rates if epochs else []
            of_all = {
                "network": case.name, "percent": percent, "seed": case.seed, "epochs": epochs,
                **settings, "num_training": options.num_training if epochs else 0,
                "learning_rates": " ".join(map(str, rates)),
            }  # fmt: skip
            missing = {
                pruner: make for pruner, make in makes.items()
                if (epochs == 0 or pruner in options.trained)
                and key_of(of_all | {"by": pruner}) not in known
            }  # fmt: skip
            found = _trained(case, missing, epochs, rates) if epochs else _tested(case, missing)
            for pruner, row in found:
                yield of_all | {"by": pruner} | row


def _tested(case: Case, makes: Mapping[str, Make]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each network is worth as it is."""
    for pruner, make in makes.items():
        started = time.perf_counter()
        row = _made(case, make)
        if "network" in row:
            row["accuracy"] = case.accuracy(row.pop("network"))
        yield pruner, row | {"seconds": round(time.perf_counter() - started, 1)}


def _trained(
    case: Case, makes: Mapping[str, Make], epochs: int, rates: list[float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each is worth after a training; all are trained side by side."""
    started = time.perf_counter()
    rows = {pruner: _made(case, make) for pruner, make in makes.items()}
    good = [row for row in rows.values() if "network" in row]
    trained = case.trained([row.pop("network") for row in good], epochs, rates)
    for row, trainee in zip(good, trained, strict=True):
        row |= {"accuracy": case.accuracy(trainee.module), "rate": trainee.rate}
    seconds = round((time.perf_counter() - started) / max(len(rows), 1), 1)
    for pruner, row in rows.items():
        yield pruner, row | {"seconds": seconds}


def _made(case: Case, make: Make) -> dict[str, Any]:
    """A network and its share of the MACs, or what went wrong."""
    found: dict[str, Any] = {"original": case.original, "num_test": len(case.test)}
    try:
        network = make()
        return found | {"macs": case.share_of_macs(network), "network": network}
    except Exception as error:  # whatever a peer raises is the result
        lines = [line for line in str(error).splitlines() if line.strip()]
        return found | {"error": f"{type(error).__name__}: {lines[0][:200] if lines else ''}"}


def _pruners(
    case: Case, ours: OurPruner, options: argparse.Namespace, cache: Cache
) -> Callable[[int], Iterator[tuple[str, Make]]]:
    """By percentage of the MACs: name and maker of each network; scores are made when needed."""
    reference = ReferencePruner(case, options.reference_images)
    has_norms = any(isinstance(layer, nn.BatchNorm2d) for layer in case.module.modules())

    def made(percent: int) -> Iterator[tuple[str, Make]]:
        share = percent / 100
        for signal in options.signals:
            for repair in options.repairs:
                made_by_us = functools.partial(ours.network, signal, share, repair)
                yield f"fairdeploy {signal} {repair}", _once(made_by_us, {}, ())
        for peer in options.peers:
            make: Make
            if peer == REFERENCE:
                make = functools.partial(reference.network, share)
            else:
                make = functools.partial(pruned_by_torch_pruning, peer, case, share)
            seed = case.seed if peer in (*LOOKS_AT_IMAGES, REFERENCE) else None
            pruned = _once(make, cache, (peer, percent, seed))
            yield peer, pruned
            if has_norms:
                yield f"{peer} batchnorm", functools.partial(_renormed, pruned, case.calibration)

    return made


def _once(make: Make, cache: Cache, key: tuple[Any, ...]) -> Make:
    """The same, computed once; each call gives a copy."""

    def copied() -> nn.Module:
        if key not in cache:
            cache[key] = make()
        return copy.deepcopy(cache[key])

    return copied


def _renormed(make: Make, images: Tensor) -> nn.Module:
    return with_new_statistics(make(), images)


def _images(options: argparse.Namespace, seed: int) -> Images:
    """The seed chooses the calibration images, and those to train on, among the training images."""
    images, labels = _read(options.images, NUM_POOL, "train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = options.num_calibration
    first, selection, rest = torch.tensor_split(order, (count, count + NUM_SELECTION))
    needs_more = any(options.epochs) or "distil" in options.repairs
    rest = rest[: options.num_training if needs_more else 0]
    return Images(
        images[first], labels[first], images[rest], labels[rest],
        images[selection], labels[selection], *_read(options.images, options.num_test, "test"),
    )  # fmt: skip


@functools.cache
def _read(source: Path, num_images: int, split: str) -> tuple[Tensor, Tensor]:
    return read_images(source, num_images, split)


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(rows, indent=0) + "\n")
    os.replace(unfinished, path)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=Path, nargs="+", help="print what these files hold, and nothing else")
    add("--models", type=Path, help="folder of state dicts")
    add("--images", type=Path, help="folder or zip with train/ and test/")
    add("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    add("--macs", type=int, nargs="+", default=[70, 50, 35], help="per cent that stay")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--signals", nargs="*", choices=SIGNALS, default=list(SIGNALS), help="of ours")
    add("--repairs", nargs="*", choices=REPAIRS, default=list(REPAIRS), help="of ours")
    add("--round-to", type=int, default=1, help="channel multiple of ours; peers round nothing")
    add("--num-projections", type=int, nargs="+", default=[64], help="of the wasserstein signal")
    add("--num-scoring", type=int, nargs="+", default=[0], help="calibration images; 0: all")
    add("--peers", nargs="*", choices=(*PEERS, REFERENCE), default=[*PEERS, REFERENCE])
    add("--peer-path", nargs="+", default=[], help="folders in which the peers are installed")
    add("--num-calibration", type=int, default=512)
    add("--reference-images", type=int, default=160, help=f"that {REFERENCE} scores with")
    add("--epochs", type=int, nargs="+", default=[0], help="0: as it was pruned and repaired")
    add("--trained", nargs="+", default=TRAINED, help="rows that --epochs goes for")
    add("--num-training", type=int, default=NUM_POOL, help="images at most")
    add("--learning-rates", type=float, nargs="+", default=[0.01, 0.001], help="the best counts")
    add("--num-test", type=int, default=5_000)
    add("--threads", type=int, default=1)
    add("--device", default="cpu", help="where networks are tested and trained on")
    add("--output", type=Path, help="rows as JSON, written after each")
    options = parser.parse_args()
    if not options.table and not (options.models and options.images):
        parser.error("--models and --images are needed, or --table")
    if not options.peer_path:
        options.peers = []
    return options


if __name__ == "__main__":
    main()
