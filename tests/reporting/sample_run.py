"""A small whole run with invented measurements, to be reported on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import (
    AccuracyByStage,
    AccuracyEstimate,
    Allocation,
    AllocationDiagnostics,
    Artifact,
    Budget,
    CallTimes,
    DataSplits,
    DeviceRecord,
    GroupDiagnostics,
    GroupScores,
    IdleGapComparison,
    ImageSet,
    LatencyComparison,
    LatencyStats,
    LayerFit,
    LoadedModel,
    Mending,
    ParityResult,
    Preprocessing,
    ProofResult,
    RecoverySummary,
    TargetProfile,
)
from fairdeploy.reporting.document import Report


class SmallNet(nn.Module):
    """Two removable groups of 8 and 6 channels; the classifier's 4 outputs are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.LayerNorm([6, 8, 8])
        self.third = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4]."""
        x = self.norm(self.second(self.first(x).relu())).relu()
        logits: torch.Tensor = self.head(self.third(x).relu().mean((2, 3)))
        return logits


def sample_graph() -> UnitGraph:
    """The units of ``SmallNet`` for 8 by 8 images."""
    torch.manual_seed(0)
    return build_unit_graph(SmallNet().eval(), (torch.zeros(2, 3, 8, 8),))


def sample_arguments(graph: UnitGraph, **changes: Any) -> dict[str, Any]:
    """Arguments of ``Report``; ``changes`` replace some of them."""
    scores = tuple(_scores(group.name, group.size) for group in graph.groups)
    curves = sample_curves(graph)
    arguments: dict[str, Any] = {
        "model": _model(),
        "data": _data(),
        "graph": graph,
        "budgets": (Budget("params", "40%", fraction=0.4), Budget("size", "4kB", absolute=4000.0)),
        "original_costs": {"params": 1000.0, "macs": 50_000.0, "size": 4000.0},
        "shrunk_costs": {"params": 398.0, "macs": 21_000.0, "size": 1592.0},
        "scores": scores,
        "diagnostics": _diagnostics(scores, curves),
        "allocation": _allocation(scores),
        "proof": ProofResult(3.1e-7, 1e-5, 4, (2, 3)),
        "mending": Mending(_recovery()),
        "artifacts": (Artifact("model.onnx", "onnx", "fp32", "ab" * 32, 2345),),
        "parity": tuple(ParityResult("model.onnx", n, 2e-6, 1e-4, 1.0) for n in (1, 3)),
        "accuracy": AccuracyByStage(
            _estimate(0.9), _estimate(0.41), _estimate(0.88), exported=_estimate(0.88)
        ),
        "latency": sample_latency(),
        "profile": _profile(),
        "seed": 7,
        "command": ("fairdeploy", "shrink", "my model.pt", "--budget", "40%"),
        "stage_seconds": {"score": 2.5, "export": 7.5},
        "environment": {
            "python": "3.12.1",
            "packages": {"torch": "2.13.0"},
            "platform": "Linux",
            "cpu": "Some CPU",
            "cores": 2,
            "load_average": [0.1, 0.1, 0.1],
        },
        "warnings": ("no class names were given",),
    }
    return arguments | changes


def document_of(**arguments: Any) -> dict[str, Any]:
    """The tree of ``report.json`` for arguments of ``Report``."""
    return Report(**arguments).document()


def sample_curves(graph: UnitGraph) -> dict[str, NDArray[np.float64]]:
    """ToD curves by group name."""
    scores = (_scores(group.name, group.size) for group in graph.groups)
    return {group.name: _slow_tod_curve(group.u, group.r) for group in scores}


def _diagnostics(
    scores: tuple[GroupScores, ...], curves: dict[str, NDArray[np.float64]]
) -> AllocationDiagnostics:
    """Half of each group has gone; the masses are invented."""
    groups = {
        group.name: GroupDiagnostics(
            tod=float(curves[group.name][len(group.u) // 2 - 1]),
            r_mass_removed=1.0, r_mass_prefix=1.5, r_mass_bound=2.0, r_mass_uniform=1.8,
            share_protected=0.25, r_mass_bound_removed=1.6, num_removed_uniform=3,
        )
        for group in scores
    }  # fmt: skip
    return AllocationDiagnostics(groups, uniform_fraction=0.5, exchange=0.8 * len(groups))


def sample_latency(*, is_noisy: bool = False) -> LatencyComparison:
    """Original about 2 ms, shrunk about 1.4 ms, 200 pairs."""
    generator = np.random.default_rng(1)
    original, shrunk = (_stats(ms * generator.gamma(400, 1 / 400, 200)) for ms in (2.0, 1.4))
    return LatencyComparison(
        target="cpu", batch=1, original=original, shrunk=shrunk,
        speedup=1.43, speedup_low=1.41, speedup_high=1.45,
        stopped_because="the interval is narrow enough", providers=("CPUExecutionProvider",),
        threads=0, load_average=0.4, is_noisy=is_noisy,
        idle_gap=IdleGapComparison(
            33.0, CallTimes(3.0, 3.1, 3.2, (3.0,)), CallTimes(2.5, 2.6, 2.7, (2.5,)), 1.2, 1.1, 1.3
        ),
        device=DeviceRecord(
            cpu="Small CPU", machine="aarch64", system="Linux", python="3.11", cores=4,
            governor="ondemand", clock_mhz=1500.0, max_clock_mhz=1800.0,
            surroundings="container", load_before=0.4, load_after=1.1,
            versions={"onnxruntime": "1.32.0"},
        ),
    )  # fmt: skip


def _stats(times_ms: NDArray[np.float64]) -> LatencyStats:
    median, p90, p99 = (float(np.percentile(times_ms, q)) for q in (50, 90, 99))
    return LatencyStats(median, p90, p99, 31.0, tuple(times_ms.tolist()))


def _scores(name: str, num_units: int) -> GroupScores:
    generator = np.random.default_rng(num_units)
    u, r = generator.random(num_units), generator.random(num_units)
    return GroupScores(name, u, r, num_units - 1)


def _slow_tod_curve(u: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.float64]:
    lowest, highest = np.argsort(u), np.argsort(-r)
    ks = range(1, len(u) + 1)
    return np.array([len({*lowest[:k]} & {*highest[:k]}) / k for k in ks])


def _allocation(scores: tuple[GroupScores, ...]) -> Allocation:
    """Half of each group went; the tolerance had allowed one unit more."""
    depths = {group.name: len(group.u) // 2 + 1 for group in scores}
    removed = {
        group.name: tuple(sorted(map(int, np.argsort(group.u)[: len(group.u) // 2])))
        for group in scores
    }
    return Allocation(0.25, removed, depths, {"params": 398.0}, 40)


def _model() -> LoadedModel:
    shape = Preprocessing(3, 8, 8, (0.5,) * 3, (0.5,) * 3)
    return LoadedModel("smallnet", nn.Identity(), True, shape, "cd" * 32, "my model.pt")


def _data() -> DataSplits:
    labels = torch.arange(16) % 4
    images = ImageSet(torch.zeros(16, 3, 8, 8), labels, "given")
    return DataSplits(images, images, ("a", "b", "c", "d"), str(Path("images")), "ef" * 32)


def _recovery() -> RecoverySummary:
    fitted = LayerFit("second", "fitted", 0.4, 0.1, 1e-3)
    return RecoverySummary("least_squares", (fitted, LayerFit("head", "kept", 0.2, 0.2, None)),
                           16, 0.4)  # fmt: skip


def _profile() -> TargetProfile:
    return TargetProfile(
        name="cpu", description="this machine", runtime="onnx",
        providers=("CPUExecutionProvider",), precision="fp32", batch=1, threads=0,
        channel_multiple=8,
        warmup_seconds=0.1, min_pairs=20, max_seconds=1.0, ratio_interval=0.05, parity_limit=1e-4,
    )  # fmt: skip


def _estimate(value: float) -> AccuracyEstimate:
    return AccuracyEstimate(value, value - 0.02, value + 0.015, 800)
