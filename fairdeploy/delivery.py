"""Export the shrunk network, check the file, and race it against the original."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency import compare_latency
from fairdeploy.deployment.parity import check_parity, require_parity
from fairdeploy.evaluation import Evaluation
from fairdeploy.graph.capture import EXAMPLE_BATCH
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import Artifact, DataSplits, LatencyComparison, ParityResult, TargetProfile
from fairdeploy.stages import example_inputs
from fairdeploy.stopwatch import Stopwatch
from fairdeploy.surgery.plan import Plan

ONNX_FILE = "model.onnx"
"""The deployed network."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The exported file, its parity, and its race against the original."""

    artifact: Artifact
    parity: tuple[ParityResult, ...]
    latency: LatencyComparison | None


def deliver(
    folder: Path,
    graph: UnitGraph,
    shrunk: fx.GraphModule,
    data: DataSplits,
    exporter: Exporter,
    profile: TargetProfile,
    evaluation: Evaluation,
    watch: Stopwatch,
    *,
    plan: Plan,
    seed: int,
    with_latency: bool,
) -> Delivery:
    """Export, check parity and accuracy of the file, and race it against the original."""
    images = data.calibration.images
    batches = (1, 3) if graph.has_dynamic_batch else (EXAMPLE_BATCH,)
    with watch.stage("export") as stage:
        artifact = exporter.export(
            shrunk, example_inputs(graph), folder / ONNX_FILE,
            dynamic_batch=graph.has_dynamic_batch, metadata=plan.metadata(),
        )  # fmt: skip
        stage.note(f"{artifact.size_bytes / 1e6:.1f} MB")
    with watch.stage("parity"):
        runner = exporter.open(folder / ONNX_FILE, profile)
        parity = check_parity(
            runner, shrunk, ONNX_FILE, images, batches=batches, limit=profile.parity_limit
        )
        require_parity(parity)
    evaluation.add("exported", runner)
    runner.close()
    if not with_latency:
        return Delivery(artifact, parity, None)
    with watch.stage("latency") as stage, tempfile.TemporaryDirectory() as scratch:
        original = Path(scratch) / "original.onnx"
        exporter.export(
            graph.module, example_inputs(graph), original,
            dynamic_batch=graph.has_dynamic_batch, metadata={},
        )  # fmt: skip
        batch = profile.batch if graph.has_dynamic_batch else EXAMPLE_BATCH
        latency = compare_latency(
            lambda: exporter.open(original, profile),
            lambda: exporter.open(folder / ONNX_FILE, profile),
            (images[:batch].numpy(),),
            profile,
            seed=seed,
        )
        stage.note(f"{latency.speedup:.2f}x")
    return Delivery(artifact, parity, latency)
