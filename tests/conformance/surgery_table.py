"""Shrink whole architectures to half their parameters and check every law on each.

``python -m tests.conformance.surgery_table`` prints a table (all models, about 15 minutes on two
cores); names as arguments choose models, ``--sample`` the few that continuous integration runs,
``--json FILE`` keeps a line per model. The exit status is 1 if any law is broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from fairdeploy.allocation.budget import parse_budgets
from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.search import search
from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.deployment.parity import check_parity
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.target_profiles import load_profile
from fairdeploy.records import UnitScores
from fairdeploy.stages import group_scores
from fairdeploy.surgery.equivalence import prove
from fairdeploy.surgery.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from tests.conformance.zoo import MODELS, SAMPLE, build, example

BUDGET = 0.5
LANDING = 0.01
"""How far below the budget the result may land, as a share of the original."""
PARITY_LIMIT = 1e-4


@dataclasses.dataclass(slots=True)
class Row:
    """What came out for one model."""

    model: str
    params: int = 0
    kept: float = float("nan")
    groups: int = 0
    units: int = 0
    proof: float = float("inf")
    onnx_1: float = float("inf")
    onnx_3: float = float("inf")
    own_class: str = ""
    seconds: float = 0.0
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return (
            not self.failure
            and BUDGET - LANDING <= self.kept <= BUDGET
            and self.proof <= 1e-5
            and max(self.onnx_1, self.onnx_3) <= PARITY_LIMIT
        )


def check(name: str, seed: int = 0) -> Row:
    """Run one model through everything; failures are part of the row."""
    row, started = Row(name), time.perf_counter()
    try:
        _check(name, seed, row)
    except Exception as error:  # the table shows what broke
        row.failure = f"{type(error).__name__}: {error}"
        traceback.print_exc(file=sys.stderr)
    row.seconds = time.perf_counter() - started
    return row


def _check(name: str, seed: int, row: Row) -> None:
    network, images = build(name, seed), example(name)
    graph = build_unit_graph(network, (images,))
    costs = CostModel(graph.cost_terms, len(graph.groups))
    random = np.random.default_rng(seed)
    scores = UnitScores(random.random(graph.num_units), random.random(graph.num_units), 2, 0)
    groups = group_scores(graph, scores, load_profile("cpu").channel_multiple)
    allocation = search(groups, costs.costs, parse_budgets([f"params={BUDGET:.0%}"]))
    removed = graph.removed_mask(allocation.removed)
    shrunk = remove_units(graph, removed).module
    row.params = sum(parameter.numel() for parameter in network.parameters())
    row.kept = sum(parameter.numel() for parameter in shrunk.parameters()) / row.params
    row.groups, row.units = len(graph.groups), graph.num_units
    row.proof = prove(graph, shrunk, removed, seed=seed).max_relative_error
    own, reason = rebuild_own_class(network, graph, shrunk)
    row.own_class = type(own).__name__ if own is not None else f"no: {reason[:60]}"
    exporter = get_exporter("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exporter.export(shrunk, (images,), path, dynamic_batch=True, metadata={})
        runner = exporter.open(path, load_profile("cpu"))
        batch = torch.randn(3, *images.shape[1:], generator=torch.Generator().manual_seed(seed))
        results = check_parity(
            runner, shrunk, "model.onnx", batch, batches=(1, 3), limit=PARITY_LIMIT
        )
        runner.close()
    row.onnx_1, row.onnx_3 = (result.max_relative_error for result in results)


def print_header() -> None:
    """The table's head, in Markdown."""
    print("| model | parameters | kept | groups | units | zeroed = shrunk | ONNX b1 | ONNX b3 "
          "| own class | s | verdict |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|---|", flush=True)


def print_row(row: Row) -> None:
    """One line of the table."""
    verdict = "pass" if row.passed else f"FAIL {row.failure}"
    print(
        f"| {row.model} | {row.params / 1e6:.2f} M | {row.kept:.2%} | {row.groups} | {row.units} "
        f"| {row.proof:.1e} | {row.onnx_1:.1e} | {row.onnx_3:.1e} | {row.own_class} "
        f"| {row.seconds:.0f} | {verdict} |",
        flush=True,
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="timm:NAME or torchvision:NAME; default: all")
    parser.add_argument("--sample", action="store_true", help="the few that CI runs")
    parser.add_argument("--json", type=Path, help="append a JSON line per model here")
    arguments = parser.parse_args()
    names = arguments.models or (SAMPLE if arguments.sample else MODELS)
    print_header()
    rows = []
    for name in names:
        row = check(name)
        rows.append(row)
        print_row(row)
        if arguments.json:
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**dataclasses.asdict(row), "passed": row.passed}) + "\n")
    num_passed = sum(row.passed for row in rows)
    print(f"\n{num_passed} of {len(rows)} passed; torch {torch.__version__}")
    return 0 if num_passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
