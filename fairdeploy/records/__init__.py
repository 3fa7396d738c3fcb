"""What the stages hand over, in the order in which it is made.

Records are frozen: a stage that changes something makes a new one. Arrays inside are not copied,
and nobody writes into them.
"""

from __future__ import annotations

from fairdeploy.records.allocation import (
    Allocation,
    AllocationDiagnostics,
    Budget,
    GroupDiagnostics,
    GroupScores,
    MetricName,
    UnitScores,
)
from fairdeploy.records.control import GroupRemark, RestrictionOutcome, Restrictions
from fairdeploy.records.deployment import (
    AccuracyByStage,
    Artifact,
    LatencyComparison,
    LatencyStats,
    ParityResult,
    RunRecord,
    TargetProfile,
    TensorNames,
)
from fairdeploy.records.inputs import DataSplits, ImageSet, LabelSource, LoadedModel, Preprocessing
from fairdeploy.records.surgery import AccuracyEstimate, LayerFit, ProofResult, RecoverySummary
from fairdeploy.records.sweep import (
    PlannedPoint,
    Quality,
    Sweep,
    SweepPoint,
    SweepTarget,
    TradeOff,
)

__all__ = [
    "AccuracyByStage",
    "AccuracyEstimate",
    "Allocation",
    "AllocationDiagnostics",
    "Artifact",
    "Budget",
    "DataSplits",
    "GroupDiagnostics",
    "GroupRemark",
    "GroupScores",
    "ImageSet",
    "LabelSource",
    "LatencyComparison",
    "LatencyStats",
    "LayerFit",
    "LoadedModel",
    "MetricName",
    "ParityResult",
    "PlannedPoint",
    "Preprocessing",
    "ProofResult",
    "Quality",
    "RecoverySummary",
    "RestrictionOutcome",
    "Restrictions",
    "RunRecord",
    "Sweep",
    "SweepPoint",
    "SweepTarget",
    "TargetProfile",
    "TensorNames",
    "TradeOff",
    "UnitScores",
]
