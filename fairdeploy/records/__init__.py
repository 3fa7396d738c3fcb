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
    ParityResult,
    RunRecord,
    TargetProfile,
    TensorNames,
    default_multiple,
)
from fairdeploy.records.inputs import DataSplits, ImageSet, LabelSource, LoadedModel, Preprocessing
from fairdeploy.records.multiples import (
    GroupRounding,
    MultipleChoice,
    MultipleCost,
    Rounding,
    WidthTime,
)
from fairdeploy.records.operators import (
    Cause,
    ModuleTime,
    Obstacle,
    OperatorComparison,
    OperatorRow,
    OperatorTime,
)
from fairdeploy.records.surgery import AccuracyEstimate, LayerFit, ProofResult, RecoverySummary

__all__ = [
    "AccuracyByStage",
    "AccuracyEstimate",
    "Allocation",
    "AllocationDiagnostics",
    "Artifact",
    "Budget",
    "CallTimes",
    "Cause",
    "DataSplits",
    "DeviceRecord",
    "GroupDiagnostics",
    "GroupRemark",
    "GroupRounding",
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
    "ModuleTime",
    "MultipleChoice",
    "MultipleCost",
    "NetworkDims",
    "Obstacle",
    "OperatorComparison",
    "OperatorRow",
    "OperatorTime",
    "ParityResult",
    "Preprocessing",
    "ProofResult",
    "RecoverySummary",
    "RestrictionOutcome",
    "Restrictions",
    "Rounding",
    "RunRecord",
    "TargetProfile",
    "TensorNames",
    "TimedPlan",
    "UnitScores",
    "WidthTime",
    "default_multiple",
]
