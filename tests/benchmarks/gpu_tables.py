"""Latency budgets, A/A and gain per MAC on an NVIDIA GPU, through ONNX Runtime, with torch beside.

``python tests/benchmarks/gpu_tables.py`` makes the three tables of ``latency_budgets``, ``aa_test``
and ``gain_per_mac`` for the targets ``cuda`` and ``cuda-fp16``, and races the same networks in
torch on the same device: arrays go in and come out in host memory in both. It writes
``results/gpu_tables.json`` and ``results/gpu_tables.md``, with the device and all versions. A
target that cannot be used here ends it with one line. ``--peer-path`` adds Torch-Pruning to the
gain per MAC.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fairdeploy
from fairdeploy.deployment.devices.gpu_facts import survey_gpus
from fairdeploy.deployment.exporter_api import load_exporters, unusable_because
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.errors import FairdeployError
from fairdeploy.records import TargetProfile
from fairdeploy.runs.environment import describe_environment
from fairdeploy.settings.target_profiles import load_profile
from tests.benchmarks import gain_per_mac
from tests.benchmarks.aa_test import NUM_LAYERS, trial, write_chain
from tests.benchmarks.latency_budgets import CLOSE, Network, budget_row
from tests.benchmarks.torch_runner import TorchRunner

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("timm:resnet18", "timm:mobilenetv2_100", "timm:convnext_atto")
CHANNELS, SIZE = 128, 56
"""Of the chain for A/A: enough for a GPU to work on."""

Row = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Make all tables; 1 where a target cannot be used here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["cuda", "cuda-fp16"])
    parser.add_argument("--network", nargs="+", default=list(NETWORKS))
    parser.add_argument("--budgets", nargs="+", default=["80%", "60%", "40%"])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--aa-runs", type=int, default=20)
    parser.add_argument("--peer-path", help="folder with torch-pruning 1.6.1")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the page")
    options = parser.parse_args(words)
    profiles = [load_profile(target) for target in options.target]
    for profile in profiles:
        problem = unusable_because(profile, load_exporters())
        if problem is not None:
            sys.stderr.write(f"error: target '{profile.name}' cannot be used here: {problem}\n")
            return 1
    if options.peer_path:
        sys.path.append(options.peer_path)
    networks = [Network.parsed(text) for text in options.network]
    document = {
        "environment": describe_environment(),
        "gpus": [asdict(gpu) for gpu in survey_gpus().gpus],
        "cuda_of_torch": torch.version.cuda,
        "targets": {
            profile.name: _tables(target, profile, networks, options)
            for target, profile in zip(options.target, profiles, strict=True)
        },
    }
    (options.output / "gpu_tables.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.output / "gpu_tables.md").write_text(page(document))
    print(page(document))
    return 0


def _tables(
    target: str, profile: TargetProfile, networks: Sequence[Network], options: argparse.Namespace
) -> Row:
    beside = _in_torch(profile)
    return {
        "profile": asdict(profile),
        "budgets": [
            budget_row(network, budget, target, look=partial(beside, network))
            for network in networks
            for budget in options.budgets
        ],
        "aa": list(_aa_rows(profile, options.aa_runs)),
        "gain": [
            row
            for network in networks
            for row in _gain_rows(
                network, options.macs, target, beside, with_peer=bool(options.peer_path)
            )
        ],
    }


def _aa_rows(profile: TargetProfile, num_runs: int) -> Iterator[Row]:
    """The same chain of layers as both, and one with a layer more."""
    shape = (1, CHANNELS, SIZE, SIZE)
    with tempfile.TemporaryDirectory() as scratch:
        same, more = (
            write_chain(Path(scratch) / f"{number}.onnx", number, CHANNELS, SIZE)
            for number in (NUM_LAYERS, NUM_LAYERS + 1)
        )
        for run in range(num_runs):
            for kind, second in (("same", same), ("3 % more", more)):
                race = trial(same, second, profile, shape, run)
                low, high = race.speedup_low, race.speedup_high
                is_right = low <= 1.0 <= high if kind == "same" else high < 1.0
                yield {
                    "kind": kind, "ratio": race.speedup, "low": low, "high": high,
                    "is_right": is_right,
                }  # fmt: skip


def _gain_rows(
    network: Network,
    macs: float,
    target: str,
    beside: Callable[[Network, Path], Row],
    *,
    with_peer: bool,
) -> Iterator[Row]:
    example = gain_per_mac.example_of(network)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = folder / "original.onnx"
        graph = gain_per_mac.graph_of(gain_per_mac.module_of(network), example)
        gain_per_mac.export(graph, example, original, target)
        file, share = gain_per_mac.ours(network, macs, target, folder / "plain")
        race = (network, "fairdeploy", original, file, share, target, example)
        yield gain_per_mac.raced(*race) | beside(network, folder / "plain")
        if with_peer:
            file, share = gain_per_mac.peer(network, macs, target, folder / "peer.onnx")
            race = (network, "Torch-Pruning", original, file, share, target, example)
            yield gain_per_mac.raced(*race)


def _in_torch(profile: TargetProfile) -> Callable[[Network, Path], Row]:
    """Races a shrunk network's folder against the original in torch."""
    on_gpu = any(name.startswith("CUDA") for name in profile.providers)
    device = "cuda" if on_gpu else "cpu"
    dtype = torch.float16 if profile.precision == "fp16" else torch.float32

    def raced(network: Network, folder: Path) -> Row:
        if on_gpu and not torch.cuda.is_available():
            return {"torch": {"problem": f"torch {torch.__version__} has no CUDA here"}}
        example = gain_per_mac.example_of(network)
        original = gain_per_mac.graph_of(gain_per_mac.module_of(network), example)
        shrunk = fairdeploy.load(folder)
        try:
            race = compare_latency(
                lambda: TorchRunner(original, device, dtype),
                lambda: TorchRunner(shrunk, device, dtype),
                gain_per_mac.inputs_of(example, profile), profile, seed=0,
            )  # fmt: skip
        except (FairdeployError, RuntimeError) as error:
            return {"torch": {"problem": str(error).splitlines()[0][:200]}}
        return {
            "torch": {
                "speedup": race.speedup, "low": race.speedup_low, "high": race.speedup_high,
                "original_ms": race.original.median_ms, "shrunk_ms": race.shrunk.median_ms,
            }
        }  # fmt: skip

    return raced


def page(document: Row) -> str:
    """The tables in Markdown."""
    environment = document["environment"]
    gpus = [f"{gpu['name']} (driver {gpu['driver']})" for gpu in document["gpus"]]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    lines = [
        "# Latency budgets, A/A and gain per MAC",
        "",
        f"{', '.join(gpus) or 'no NVIDIA GPU'}; {environment['cpu']}, {environment['cores']} "
        f"cores; {versions}; CUDA of torch: {document['cuda_of_torch']}.",
    ]
    for name, tables in document["targets"].items():
        lines += ["", f"## {name}", "", *_budget_lines(tables["budgets"])]
        lines += ["", *_aa_lines(tables["aa"]), "", *_gain_lines(tables["gain"])]
    return "\n".join(lines) + "\n"


def _budget_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | budget | confirmed | hit | again | plans | torch |"
    yield "|---|--:|--:|---|--:|--:|--:|"
    for row in rows:
        head = f"| `{row['network']}` | {row['budget']} |"
        if "error" in row:
            yield f"{head} {row['error']} | no | | | |"
            continue
        confirmed = row["confirmed"]
        yield (
            f"{head} {confirmed['ratio']:.1%} ({confirmed['ratio_low']:.1%} to "
            f"{confirmed['ratio_high']:.1%}) | {'yes' if row['hit'] else 'no'} | "
            f"{row['share']:.1%} | {row['search']['num_measured']} | {_torch_cell(row)} |"
        )
    hits = sum(row["hit"] for row in rows)
    yield ""
    yield f"{hits} of {len(rows)} at or under the budget and within {1 - CLOSE:.0%} of it."


def _aa_lines(rows: Sequence[Row]) -> Iterator[str]:
    for kind, what in (
        ("same", "the same file against itself: the 95 % interval holds 1.0"),
        ("3 % more", "against 3 % more work: the interval lies wholly on one side"),
    ):
        own = [row["is_right"] for row in rows if row["kind"] == kind]
        yield f"- A/A, {what} in {sum(own)} of {len(own)}."


def _gain_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | by | MACs | original ms | speed-up | gain | torch |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for row in rows:
        yield (
            f"| `{row['network']}` | {row['by']} | {row['macs']:.1%} | {row['original_ms']:.3g} | "
            f"{row['speedup']:.2f} ({row['low']:.2f} to {row['high']:.2f}) | "
            f"{row['speedup'] * row['macs']:.2f} | {_torch_cell(row)} |"
        )


def _torch_cell(row: Row) -> str:
    """Speed-up in torch, and the original's milliseconds there."""
    found = row.get("torch")
    if found is None:
        return ""
    if "problem" in found:
        return str(found["problem"])
    return (
        f"{found['speedup']:.2f} ({found['low']:.2f} to {found['high']:.2f}), original "
        f"{found['original_ms']:.3g} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
