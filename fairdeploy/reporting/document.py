"""``report.json``: everything that a run found out, as one versioned tree that scripts may read.

Numbers are never NaN or infinite (JSON has no word for them); such values become null. Shares are
fractions, not per cent; times are milliseconds per call unless the key says seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy.files import write_whole
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    KNOBS,
    AccuracyByStage,
    Allocation,
    AllocationDiagnostics,
    AnswerChanges,
    Artifact,
    Budget,
    DataSplits,
    DropGate,
    GroupScores,
    ImageSet,
    LatencyComparison,
    LatencySearch,
    LoadedModel,
    Mending,
    OperatorComparison,
    ParityResult,
    ProofResult,
    PruningMethod,
    RestrictionOutcome,
    Rounding,
    RunRecord,
    TargetProfile,
    TimedPlan,
)
from fairdeploy.records.accuracy import Fidelity, SecondFigure
from fairdeploy.records.metrics import COUNTED, METRICS
from fairdeploy.reporting.accuracy_rows import (
    accuracy_row,
    changes_row,
    gate_row,
    mending_rows,
    purposes,
)
from fairdeploy.reporting.chain import chain_of
from fairdeploy.reporting.group_rows import block_rows, exchange_row, freeze_rows, group_rows
from fairdeploy.reporting.json_tree import circumstance_rows, heading_rows, json_tree, row_of
from fairdeploy.reporting.page.report import render_html

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run found out, as its stages found it."""

    model: LoadedModel
    data: DataSplits | None
    """None where the images are synthetic and have no source."""
    graph: UnitGraph
    budgets: Sequence[Budget]
    original_costs: Mapping[str, float]
    """By metric (``params``, ``macs``, ``size``); every budget's metric is a key."""
    shrunk_costs: Mapping[str, float]
    """The same of the network that is written."""
    scores: Sequence[GroupScores]
    """Of the removable groups, in the order of ``graph.groups``."""
    diagnostics: AllocationDiagnostics
    """Of every removable group."""
    allocation: Allocation
    proof: ProofResult
    mending: Mending
    artifacts: Sequence[Artifact]
    parity: Sequence[ParityResult]
    accuracy: AccuracyByStage
    latency: LatencyComparison | None
    profile: TargetProfile
    seed: int
    command: Sequence[str]
    """The command line as typed, word by word."""
    stage_seconds: Mapping[str, float]
    """Stage name to its duration, in the order in which they ran."""
    environment: Mapping[str, Any]
    warnings: Sequence[str] = ()
    """Everything the user was warned of."""
    own_class_problem: str | None = None
    """Why the user's own class could not be rebuilt; None or empty where it was."""
    restrictions: Sequence[RestrictionOutcome] = ()
    """What came of every restriction that the user gave."""
    latency_search: LatencySearch | None = None
    """How a budget of latency was met, where there is one."""
    operators: OperatorComparison | None = None
    """Single operators before and after, where they were timed."""
    rounding: Rounding | None = None
    """What rounding channel counts did, where they were rounded."""
    file_metadata: Mapping[str, str] = field(default_factory=dict)
    """What every exported file carries inside."""
    method: PruningMethod = field(default_factory=PruningMethod)
    """Which signals and which rule decided."""
    changes: AnswerChanges | None = None
    """How answers on the test images differ from the original's."""
    second: SecondFigure | None = None
    """The task's other figure, where it has one."""
    fidelity: Fidelity | None = None
    """How much the network gives what the original gives, where nothing is judged."""
    gate: DropGate | None = None
    """Whether the result keeps to ``--max-drop``, where that was given."""

    def document(self) -> dict[str, Any]:
        """The tree of ``report.json``, version 1.

        Returns:
            Dictionaries, lists, strings, finite numbers, booleans and None.
        """
        document = {
            "schema_version": SCHEMA_VERSION,
            **heading_rows(self.command, self.seed),
            "task": row_of(self.graph.outputs.task.words),
            **self._plan_rows(),
            **self._result_rows(),
            "data": data_row(self.data),
            **circumstance_rows(self.profile, self.warnings, self.stage_seconds, self.environment),
            "file_metadata": dict(self.file_metadata),
            "preprocessing": self.model.preprocessing.told(),
        }
        return json_tree(document | {"chain": chain_of(document)})

    def _plan_rows(self) -> dict[str, Any]:
        """What was removed, and why."""
        problem = self.own_class_problem or None
        return {
            "model": model_row(self.model, self.graph)
            | {
                "original": costs_row(self.original_costs),
                "shrunk": costs_row(self.shrunk_costs),
                "own_class": {"rebuilt": problem is None, "problem": problem},
            },
            "budget": [self._budget_row(budget) for budget in self.budgets],
            "latency_search": row_of(self.latency_search, "num_measured"),
            "restrictions": [row_of(outcome) for outcome in self.restrictions],
            "method": method_row(self.method),
            "tolerance": self.allocation.tolerance,
            "num_evaluations": self.allocation.num_evaluations,
            "groups": group_rows(self.graph, self.scores, self.diagnostics, self.allocation),
            "blocks": block_rows(self.graph, self.scores, self.allocation),
            "exchange": exchange_row(self.diagnostics, self.scores),
            "freezes": freeze_rows(self.graph),
        }

    def _result_rows(self) -> dict[str, Any]:
        """What came of it: proof, repair, files, accuracy and speed."""
        return {
            "proof": row_of(self.proof, "passed"),
            **mending_rows(self.mending),
            "artifacts": [row_of(artifact) for artifact in self.artifacts],
            "parity": [row_of(result, "passed") for result in self.parity],
            "accuracy": accuracy_row(self.accuracy),
            "not_judged": row_of(self.data.not_judged if self.data else None, "text"),
            "changes": changes_row(self.changes, self.data.class_names if self.data else None),
            "second": row_of(self.second),
            "fidelity": row_of(self.fidelity),
            "max_drop": gate_row(self.gate),
            "latency": _latency(self.latency),
            "operators": operator_rows(self.operators),
            "rounding": row_of(self.rounding),
            "why_not_faster": why_not_faster(self.latency, self.operators),
        }

    def _budget_row(self, budget: Budget) -> dict[str, Any]:
        timed = _timed(self.latency, self.latency_search)
        if budget.metric == "latency" and timed:
            return _latency_budget_row(budget, timed)
        return budget_row(budget, self.original_costs, self.shrunk_costs)


def write_report(folder: Path, record: RunRecord) -> None:
    """Write ``report.json`` and then, drawn from it, ``report.html`` into ``folder``.

    Raises:
        OutputError: The disk refused.
    """
    write_whole(folder / "report.json", json_text(record.document))
    write_whole(folder / "report.html", render_html(record))


def json_text(document: Mapping[str, Any]) -> str:
    """The text of ``report.json``."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def budget_row(
    budget: Budget, original_costs: Mapping[str, float], shrunk_costs: Mapping[str, float]
) -> dict[str, Any]:
    """What was asked, allowed and got, in the metric's own unit."""
    original, got = original_costs[budget.metric], shrunk_costs[budget.metric]
    allowed = budget.allowed(original)
    return {
        "metric": budget.metric,
        "asked": budget.text,
        "allowed": allowed,
        "original": original,
        "got": got,
        "met": got <= allowed,
    }


def _timed(latency: LatencyComparison | None, search: LatencySearch | None) -> TimedPlan | None:
    """The last word on the plan's latency, of those that make a claim if there is one.

    The file that is written has it, else its search.
    """
    words = [latency.timed_plan] if latency else []
    words += [search.accepted] if search else []
    return next((word for word in words if not word.is_too_busy), words[0] if words else None)


def _latency_budget_row(budget: Budget, timed: TimedPlan) -> dict[str, Any]:
    """A row like the others', in milliseconds, with the interval of the share of the original."""
    row = budget_row(budget, {"latency": timed.original_ms}, {"latency": timed.shrunk_ms})
    return row | {
        "share": timed.ratio,
        "share_low": timed.ratio_low,
        "share_high": timed.ratio_high,
        "is_too_busy": timed.is_too_busy,
        "met": row["met"] and not timed.is_too_busy,
    }


def model_row(model: LoadedModel, graph: UnitGraph) -> dict[str, Any]:
    """What the network is called, where it came from, and what it takes and gives."""
    return {
        "name": model.name,
        "source": model.source,
        "sha256": model.sha256,
        "weights": model.weights,
        "input_shape": list(model.preprocessing.shape),
        "inputs": [str(spec) for spec in graph.inputs.specs],
        "outputs": list(graph.outputs.names),
        "fixed_batch": None if graph.has_dynamic_batch else graph.inputs.batch,
    }


def method_row(method: PruningMethod) -> dict[str, str]:
    """Which signals and which rule decided, and what ``tolerance`` is a value of."""
    return asdict(method) | {"knob": KNOBS[method.allocation]}


def costs_row(costs: Mapping[str, float]) -> dict[str, int]:
    """Parameters, MACs per image and bytes, each under its key."""
    return {METRICS[metric].key: round(costs[metric]) for metric in COUNTED}


def _latency(latency: LatencyComparison | None) -> dict[str, Any] | None:
    if latency is None:
        return None
    row = asdict(latency)
    for name in ("original", "shrunk"):
        stats = row.pop(name)
        raw = stats.pop("raw_ms")
        row |= {f"{name}_{key}": value for key, value in stats.items()}
        row[f"{name}_raw_ms"] = [round(time, 6) for time in raw]
    row["original_ms"], row["shrunk_ms"] = latency.typical_ms
    row["num_pairs"] = len(latency.original.raw_ms)
    for name in ("original", "shrunk") if latency.idle_gap else ():
        times = row["idle_gap"][name]
        times["raw_ms"] = [round(time, 6) for time in times["raw_ms"]]
    return row


def data_row(data: DataSplits | None) -> dict[str, Any] | None:
    """Where the images came from, how many, and who labelled them."""
    if data is None:
        return None
    return {
        "source": data.source,
        "sha256": data.sha256,
        "label_source": data.calibration.label_source,
        "is_synthetic": data.calibration.is_synthetic,
        "num_calibration": len(data.calibration),
        "num_calibration_classes": _num_classes(data.calibration),
        "num_test": len(data.test) if data.test else 0,
        "purposes": purposes(data),
        "class_names": list(data.class_names) if data.class_names else None,
    }


def _num_classes(images: ImageSet) -> int | None:
    labels = images.labels
    if labels is None or labels.dim() > 1 or labels.is_floating_point():
        return None
    return len(np.unique(labels.numpy()))


# ---- operators in ``report.json``: what each takes, and why the network is not faster ------------


SHORT_OF_PROMISE = 0.85
"""A speed-up below this share of what the MACs promise deserves a word on the terminal."""


def operator_rows(operators: OperatorComparison | None) -> dict[str, Any] | None:
    """Times by operator and by module, with their shares and ratios."""
    if operators is None:
        return None
    both = (operators.original_ms, operators.shrunk_ms)
    return {
        "original_ms": operators.original_ms,
        "shrunk_ms": operators.shrunk_ms,
        "num_runs": operators.num_runs,
        "by_operator": [_compared(row_of(row, "lost_ms"), both) for row in operators.operators],
        "by_module": [_compared(asdict(row), both) for row in operators.modules],
    }


def why_not_faster(
    latency: LatencyComparison | None, operators: OperatorComparison | None
) -> dict[str, Any] | None:
    """What the MACs promised, what came of it, and what stands in the way."""
    if latency is None or operators is None:
        return None
    promised = operators.promised_speedup
    return {
        "promised_speedup": promised,
        "speedup": latency.speedup,
        "is_too_busy": latency.is_too_busy,
        "is_slower": latency.speedup_high < 1 and not latency.is_too_busy,
        "is_short": latency.speedup < max(1.0, SHORT_OF_PROMISE * promised),
        "obstacles": [asdict(obstacle) for obstacle in operators.obstacles],
    }


def _compared(row: dict[str, Any], totals: tuple[float, float]) -> dict[str, Any]:
    """A row with its shares of both networks, and how many times as fast it got."""
    before, after = row["original_ms"], row["shrunk_ms"]
    return row | {
        "original_share": before / totals[0] if totals[0] else None,
        "shrunk_share": after / totals[1] if totals[1] else None,
        "speedup": before / after if after else None,
    }
