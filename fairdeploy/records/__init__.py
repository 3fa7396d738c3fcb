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
    LatencyCandidate,
    LatencySearch,
    MetricName,
    TimedPlan,
    UnitScores,
)
from fairdeploy.records.control import GroupRemark, RestrictionOutcome, Restrictions
from fairdeploy.records.deployment import (
    AccuracyByStage,
    Artifact,
    CallTimes,
    DeviceRecord,
    IdleGapComparison,
    InputSignature,
    LatencyComparison,
    LatencyMeasurement,
    LatencyStats,
    NetworkDims,
    OperatorTime,
    ParityResult,
    RunRecord,
    TargetProfile,
    TensorNames,
    default_multiple,
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
    "CallTimes",
    "DataSplits",
    "DeviceRecord",
    "GroupDiagnostics",
    "GroupRemark",
    "GroupScores",
    "IdleGapComparison",
    "ImageSet",
    "InputSignature",
    "LabelSource",
    "LatencyCandidate",
    "LatencyComparison",
    "LatencyMeasurement",
    "LatencySearch",
    "LatencyStats",
    "LayerFit",
    "LoadedModel",
    "MetricName",
    "NetworkDims",
    "OperatorTime",
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
    "TimedPlan",
    "TradeOff",
    "UnitScores",
    "default_multiple",
]
