"""How much of a cut in MACs becomes speed, beside Torch-Pruning 1.6.1 at the same MACs.

``python tests/benchmarks/gain_per_mac.py --network timm:resnet18 --peer-path FOLDER`` halves the
MACs of each network three ways: fairdeploy as it comes, with
``--blocks --round-to 16``, and Torch-Pruning's magnitude pruner (global, L2, output layer left
alone; of CIFAR ResNets the streams too, since it loses count at their padded shortcuts),
whose ratio is bisected until the MACs agree. All are written by the same exporter and raced
against the original in one process. *Gain* is the speed-up times the share of the MACs that is
left: 1 means that the network is as much faster as it has fewer MACs. ``FOLDER`` holds
Torch-Pruning (``pip install --no-deps --target FOLDER torch-pruning==1.6.1``). Networks with
weights of their own are scored on ``--images FOLDER`` (one folder a class), others on noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import fx, nn

from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.deployment.file_writing import exporter_for
from fairdeploy.deployment.latency.measure import compare_latency
from fairdeploy.graph.capture.capture import capture
from fairdeploy.graph.capture.model_inputs import model_inputs
from fairdeploy.inputs.model_loading import load_model
from fairdeploy.records import TargetProfile
from fairdeploy.runs.shrink import shrink
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.target_profiles import load_profile
from tests.benchmarks.cifar_images import MEAN, STD
from tests.benchmarks.cifar_resnet import stream_layers
from tests.benchmarks.latency_budgets import Network

CLOSE_MACS = 0.005


def main() -> None:
    """Print the table; write everything that was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--peer-path", required=True)
    parser.add_argument("--images", help="CIFAR-10, for networks with weights")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sys.path.append(arguments.peer_path)
    rows = []
    print(
        f"{'network':<18} {'by':<22} {'MACs':>6} {'speed-up':>9} {'95 % interval':>16} {'gain':>6}"
    )
    for network in map(Network.parsed, arguments.network):
        for row in _rows(network, arguments.macs, arguments.target, arguments.images):
            rows.append(row)
            print(
                f"{row['network']:<18} {row['by']:<22} {row['macs']:>6.1%} {row['speedup']:>8.2f}x "
                f"{row['low']:>7.2f} to {row['high']:.2f} {row['speedup'] * row['macs']:>8.2f}",
                flush=True,
            )
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


def _rows(network: Network, macs: float, target: str, images: str | None) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = folder / "original.onnx"
        module = module_of(network)
        example = example_of(network)
        export(graph_of(module, example), example, original, target)
        make = partial(ours, network, macs, target, images=images)
        files = {
            "fairdeploy": make(folder / "plain"),
            "fairdeploy, blocks, 16": make(folder / "blocks", blocks=True, round_to=16),
            "Torch-Pruning": peer(network, macs, target, folder / "peer.onnx"),
        }
        return [
            raced(network, name, original, file, share, target, example)
            for name, (file, share) in files.items()
        ]


def ours(
    network: Network,
    macs: float,
    target: str,
    output: Path,
    *,
    images: str | None = None,
    blocks: bool = False,
    round_to: int | None = None,
) -> tuple[Path, float]:
    """Our network with these MACs: its file, and the share that is left."""
    scoring: dict[str, Any] = (
        {"num_calibration": 32} if network.arch is None or images is None
        else {"data": images, "mean": MEAN, "std": STD}
    )  # fmt: skip
    document = shrink(
        ShrinkOptions(
            model=network.model, arch=network.arch, input_shape=network.size, target=target,
            budgets=(f"macs={macs:.1%}",), recover="none",
            output=output, blocks=blocks, with_latency=False,
            round_to=round_to, **scoring,
        )
    ).document  # fmt: skip
    model = document["model"]
    return output / "model.onnx", model["shrunk"]["macs"] / model["original"]["macs"]


def peer(network: Network, macs: float, target: str, file: Path) -> tuple[Path, float]:
    """Bisect the peer's ratio until it leaves these MACs."""
    example = example_of(network)
    low, high = 0.0, 0.95
    best: tuple[float, nn.Module] | None = None
    for _ in range(12):
        ratio = (low + high) / 2
        module, share = _pruned_by_peer(module_of(network), example[:1], ratio)
        if best is None or abs(share - macs) < abs(best[0] - macs):
            best = share, module
        if abs(share - macs) <= CLOSE_MACS:
            break
        low, high = (ratio, high) if share > macs else (low, ratio)
    assert best is not None
    export(graph_of(best[1], example), example, file, target)
    return file, best[0]


def _pruned_by_peer(
    module: nn.Module, example: torch.Tensor, ratio: float
) -> tuple[nn.Module, float]:
    import torch_pruning

    before, _ = torch_pruning.utils.count_ops_and_params(module, example)
    outputs = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        module,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[*outputs[-1:], *stream_layers(module)],
    )
    pruner.step()
    after, _ = torch_pruning.utils.count_ops_and_params(module, example)
    return module, after / before


def raced(
    network: Network,
    name: str,
    original: Path,
    file: Path,
    share: float,
    target: str,
    example: torch.Tensor,
) -> dict[str, Any]:
    """The file against the original."""
    profile = load_profile(target)
    exporter = get_exporter(profile.runtime)

    def opener(path: Path) -> Callable[[], Any]:
        return lambda: exporter.open(path, profile)

    inputs = inputs_of(example, profile)
    race = compare_latency(opener(original), opener(file), inputs, profile, seed=0)
    return {
        "network": network.name, "by": name, "macs": share, "speedup": race.speedup,
        "low": race.speedup_low, "high": race.speedup_high,
        "original_ms": race.original.median_ms, "shrunk_ms": race.shrunk.median_ms,
        "load_average": race.load_average, "stopped_because": race.stopped_because,
    }  # fmt: skip


def module_of(network: Network) -> nn.Module:
    """The network, in eval mode."""
    model = load_model(
        network.model, arch=network.arch, input_shape=network.size, seed=0,
    )  # fmt: skip
    return model.module.eval()


def example_of(network: Network) -> torch.Tensor:
    """Two images of noise."""
    size = network.size or 224
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def inputs_of(example: torch.Tensor, profile: TargetProfile) -> tuple[NDArray[Any], ...]:
    """As many images as the target takes in a call."""
    return (example[:1].repeat(profile.batch, 1, 1, 1).numpy(),)


def graph_of(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """The network as a graph."""
    return capture(
        module, model_inputs(module, (), (3, example.shape[2], example.shape[3]), None)
    ).module


def export(module: fx.GraphModule, example: torch.Tensor, file: Path, target: str) -> None:
    """Write a network as the target wants it."""
    exporter = exporter_for(load_profile(target))
    exporter.export(module, (example,), file, dynamic_batch=True, metadata={})


if __name__ == "__main__":
    main()
