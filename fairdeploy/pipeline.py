"""The run, top to bottom: load, capture, score, search, remove, prove, recover, export, measure.

Only this module, with ``stages`` and ``delivery``, joins the packages. It prints nothing and never
ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.allocation.budget import parse_budgets, reject_unsupported
from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.diagnostics import diagnose
from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.restrictions import rules_of
from fairdeploy.allocation.tolerance import tod_curve
from fairdeploy.delivery import deliver
from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.evaluation import Evaluation
from fairdeploy.inputs.target_profiles import load_profile
from fairdeploy.options import ShrinkOptions
from fairdeploy.output_folder import appearing_folder, check_output_folder
from fairdeploy.progress import Progress, SilentProgress
from fairdeploy.records import AccuracyByStage, RunRecord, default_multiple
from fairdeploy.reporting.run_record import build_document, write_report
from fairdeploy.saving import write_network
from fairdeploy.settings import resolve_shrink
from fairdeploy.stages import (
    allocate,
    capture_network,
    group_scores,
    group_sizes,
    limits_of,
    load_images,
    load_network,
    make_plan,
    recover,
    refuse_unreachable,
    remove,
    removed_units,
    score,
)
from fairdeploy.stopwatch import Stopwatch

SUPPORTED_METRICS = ("params", "macs", "size")


@dataclass(frozen=True, slots=True)
class ShrinkResult:
    """Where everything is, and ``report.json`` as a dictionary."""

    output: Path
    document: Mapping[str, Any]


def shrink(options: ShrinkOptions, progress: Progress | None = None) -> ShrinkResult:
    """Shrink a network to a budget, prove it, repair it, export it, measure it and report.

    Raises:
        FairdeployError: With the exit code for the command line; then nothing was written.
    """
    settings = resolve_shrink(options)
    budgets = parse_budgets(settings.budgets)
    reject_unsupported(budgets, supported=SUPPORTED_METRICS)
    check_output_folder(settings.output, force=options.force)
    profile = load_profile(settings.target)
    multiple = default_multiple(profile)
    exporter = get_exporter(profile.runtime)
    watch = Stopwatch(progress or SilentProgress())

    model = load_network(settings.model, watch)
    graph = capture_network(model, settings.model, watch)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    rules = rules_of(graph, settings.restrictions)
    refuse_unreachable(graph, costs, budgets, multiple, rules)
    data = load_images(settings, model, graph, watch)
    scores = score(graph, model, data, settings, watch)
    groups = group_scores(graph, scores, multiple, rules)
    allocation = allocate(groups, costs, budgets, watch)
    removed = removed_units(graph, groups, allocation)
    shrunk, proof, own_class_problem = remove(model, graph, removed, settings, watch)
    evaluation = Evaluation(graph, data.test, watch)
    evaluation.add("original", graph.module)
    evaluation.add("pruned", shrunk)
    recovery = recover(graph, shrunk, removed, data, settings, watch)
    evaluation.add("recovered", shrunk)
    plan = make_plan(model, graph, groups, allocation)

    with appearing_folder(settings.output, force=options.force) as folder:
        with watch.stage("write network"):
            artifacts = write_network(folder, shrunk, graph.inputs, plan)
        deployed = deliver(
            folder, graph, shrunk, data, exporter, profile, evaluation, watch,
            plan=plan, seed=settings.model.seed, with_latency=options.with_latency,
        )  # fmt: skip
        curves = {group.name: tod_curve(group.u, group.r) for group in groups}
        document = build_document(
            model=model,
            data=data,
            graph=graph,
            budgets=budgets,
            original_costs=costs.cost(group_sizes(graph)),
            shrunk_costs=allocation.costs,
            scores=groups,
            diagnostics=diagnose(groups, allocation, costs.costs, budgets),
            allocation=allocation,
            restrictions=restriction_outcomes(
                graph,
                rules,
                limits_of(graph, multiple, rules),
                {name: len(units) for name, units in allocation.removed.items()},
            ),
            proof=proof,
            recovery=recovery,
            artifacts=(deployed.artifact, *artifacts),
            parity=deployed.parity,
            accuracy=AccuracyByStage(**evaluation.estimates),
            latency=deployed.latency,
            profile=profile,
            seed=settings.model.seed,
            command=options.command,
            stage_seconds=watch.seconds,
            warnings=watch.warnings,
            own_class_problem=own_class_problem,
        )
        write_report(folder, RunRecord(document, curves, deployed.latency))
    return ShrinkResult(settings.output, document)
