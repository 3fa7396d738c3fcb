"""The run, top to bottom: load, capture, score, search, remove, prove, recover, export, measure.

It prints nothing and never ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairdeploy.allocation.diagnostics import diagnose
from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.tolerance import tod_curve
from fairdeploy.deployment.parity import require_parity
from fairdeploy.errors import noted
from fairdeploy.files import appearing_folder, kept_if_it_fails
from fairdeploy.records import (
    AccuracyByStage,
    Artifact,
    DataSplits,
    LoadedModel,
    ParityResult,
    RunRecord,
    UnitScores,
)
from fairdeploy.recovery.training.processes import launched_rank
from fairdeploy.reporting.document import Report, write_report
from fairdeploy.runs.environment import describe_environment
from fairdeploy.runs.folder.artifact_folder import complete_folder, result_files
from fairdeploy.runs.folder.file_metadata import file_metadata
from fairdeploy.runs.folder.reload import write_network
from fairdeploy.runs.problem import Planned, Problem
from fairdeploy.runs.progress import Progress
from fairdeploy.runs.run import Run, open_run
from fairdeploy.runs.search.accuracy import final_gate
from fairdeploy.runs.search.choice import search_for
from fairdeploy.runs.stages.delivery import NETWORK_FILE, Exported, Raced, export_and_check, race
from fairdeploy.runs.stages.loading import capture_network, load_images, load_network
from fairdeploy.runs.stages.plan import SCORES_KEPT, make_plan, rounding_outcome, score
from fairdeploy.runs.stages.removal import check_answers, remove
from fairdeploy.runs.stages.repair import Repaired, repair_and_test
from fairdeploy.settings.budgets import latency_apart, parse_budgets
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.run import ShrinkSettings, resolve_shrink


@dataclass(frozen=True, slots=True)
class ShrinkResult:
    """Where everything is, and ``report.json`` as a dictionary."""

    output: Path
    document: Mapping[str, Any]
    original: LoadedModel | None = None


def shrink(options: ShrinkOptions, progress: Progress | None = None) -> ShrinkResult:
    """Shrink a network to a budget, prove it, repair it, export it, measure it and report.

    Raises:
        FairdeployError: With the exit code for the command line. Notes on it tell what is written
            all the same.
    """
    settings = resolve_shrink(options)
    budgets = parse_budgets(settings.budgets) if settings.budgets else ()
    with open_run(settings, progress) as run:
        model = load_network(settings.model, run.watch)
        graph = capture_network(model, settings.model, run.watch)
        check_answers(model, graph, run.seed, run.watch)
        may_measure = latency_apart(budgets)[1] is not None and settings.host is None
        problem = Problem.of(run, model, graph, budgets, may_measure=may_measure)
        search = search_for(run, problem)
        data, graph = load_images(run, model, graph)
        search = search.for_graph(graph)
        model = replace(model, preprocessing=data.preprocessing or model.preprocessing)
        scores = score(run, graph, data)
        with noted(SCORES_KEPT, KeyboardInterrupt):
            planned = search.plan(scores, data)
            repaired = repair_and_test(run, remove(run, model, planned), data)
            if launched_rank() > 0:  # of several processes the first writes and measures
                return ShrinkResult(settings.output, {}, model)
            made = _Made(model, data, scores, planned, repaired)
            with appearing_folder(settings.output, force=settings.force) as folder:
                document, parity = _deliver(run, made, folder)
    with noted(f"the result and its report are in '{settings.output}'"):
        require_parity(parity)
    return ShrinkResult(settings.output, document, model)


@dataclass(frozen=True, slots=True)
class _Made:
    """What the stages up to the repair made."""

    model: LoadedModel
    data: DataSplits
    scores: UnitScores
    planned: Planned
    repaired: Repaired


def _deliver(
    run: Run[ShrinkSettings], made: _Made, folder: Path
) -> tuple[dict[str, Any], tuple[ParityResult, ...]]:
    """Write the network, check and measure it, and report; the network stays if that fails."""
    model, data, planned, repaired = made.model, made.data, made.planned, made.repaired
    graph, output, suffix = planned.problem.graph, run.settings.output, run.exporter.file_suffix
    plan = make_plan(model, graph, planned.groups, planned.allocation)
    metadata = file_metadata(
        plan.metadata(), model.preprocessing, data.class_names, graph.outputs.main
    )
    with run.watch.stage("write network"):
        artifacts = write_network(folder, repaired.shrunk.module, graph.inputs, plan)
    with kept_if_it_fails(folder, output, result_files(suffix)):
        file = folder / f"{NETWORK_FILE}{suffix}"
        exported = export_and_check(run, planned.problem, repaired, data, file, metadata)
        raced = race(run, planned, data, file)
        document = _document(run, made, exported, raced, artifacts, metadata)
        curves = {
            scored.name: tod_curve(scored.u, scored.r)
            for group, scored in zip(graph.groups, planned.groups, strict=True)
            if not group.is_branch
        }
        write_report(folder, RunRecord(document, curves, raced.latency))
        complete_folder(folder, document)
    return document, exported.parity


def _document(
    run: Run[ShrinkSettings],
    made: _Made,
    exported: Exported,
    raced: Raced,
    artifacts: tuple[Artifact, ...],
    metadata: Mapping[str, str],
) -> dict[str, Any]:
    """``report.json``."""
    planned, repaired = made.planned, made.repaired
    problem, allocation, evaluation = planned.problem, planned.allocation, repaired.evaluation
    gate = final_gate(run.settings.max_drop, planned.gate, evaluation, run.watch)
    return Report(
        model=made.model,
        data=made.data,
        graph=problem.graph,
        budgets=problem.budgets,
        original_costs=problem.original_costs,
        shrunk_costs=allocation.costs,
        latency_search=planned.latency,
        scores=planned.groups,
        method=run.settings.method,
        diagnostics=diagnose(planned.groups, allocation, planned.costs.costs, planned.budgets),
        allocation=allocation,
        restrictions=restriction_outcomes(
            problem.graph,
            problem.rules,
            problem.limits,
            {name: len(units) for name, units in allocation.removed.items()},
        ),
        proof=repaired.shrunk.proof,
        mending=repaired.mending,
        artifacts=(exported.artifact, *artifacts),
        parity=exported.parity,
        accuracy=AccuracyByStage(**evaluation.estimates),
        changes=evaluation.changes(),
        second=evaluation.second(),
        fidelity=evaluation.fidelity,
        gate=gate,
        latency=raced.latency,
        operators=raced.operators,
        rounding=rounding_outcome(planned, made.scores),
        profile=problem.profile,
        seed=run.seed,
        command=run.settings.command,
        stage_seconds=run.watch.seconds,
        environment=describe_environment(),
        warnings=run.watch.warnings,
        own_class_problem=repaired.shrunk.own_class_problem,
        file_metadata=metadata,
    ).document()
