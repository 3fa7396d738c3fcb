"""The run, top to bottom: load, capture, score, search, remove, prove, recover, export, measure.

Only this module, with ``stages`` and ``delivery``, joins the packages. It prints nothing and never
ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.allocation.budget import latency_apart, parse_budgets
from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.diagnostics import diagnose
from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.restrictions import held_groups, rules_of
from fairdeploy.allocation.tolerance import tod_curve
from fairdeploy.cache_folder import cache_folder
from fairdeploy.delivery import deliver, tensor_names
from fairdeploy.deployment.latency import require_this_machine
from fairdeploy.deployment.measuring_device import measuring_device
from fairdeploy.deployment.precision import exporter_for
from fairdeploy.errors import UsageError
from fairdeploy.evaluation import Evaluation
from fairdeploy.inputs.target_profiles import load_profile
from fairdeploy.latency_budget import Chosen, latency_planner
from fairdeploy.options import ShrinkOptions
from fairdeploy.output_folder import appearing_folder, check_output_folder
from fairdeploy.progress import Progress, SilentProgress
from fairdeploy.records import AccuracyByStage, RunRecord
from fairdeploy.reporting.run_record import build_document, write_report
from fairdeploy.rounding import resolve_multiple, rounding_outcome, with_multiple
from fairdeploy.saving import write_network
from fairdeploy.scored_groups import (
    group_scores,
    group_sizes,
    limits_of,
    removed_units,
    unscored_groups,
)
from fairdeploy.settings import resolve_shrink
from fairdeploy.stages import (
    allocate,
    capture_network,
    load_images,
    load_network,
    make_plan,
    recover,
    refuse_unreachable,
    remove,
    score,
)
from fairdeploy.stopwatch import Stopwatch


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
    counted, latency_budget = latency_apart(budgets)
    if latency_budget is not None and not options.with_latency:
        raise UsageError(
            f"'{latency_budget.text}' cannot be met without measuring; drop --no-latency"
        )
    decides = latency_budget is not None or options.objective == "latency"
    check_output_folder(settings.output, force=options.force)
    profile = load_profile(settings.target)
    if options.with_latency and options.host is None:
        require_this_machine(profile)
    exporter = exporter_for(profile)
    watch = Stopwatch(progress or SilentProgress())

    model = load_network(settings.model, watch)
    graph = capture_network(model, settings.model, watch)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    rules = rules_of(graph, settings.restrictions)
    refuse_unreachable(graph, costs, counted, 1, rules)
    channels = resolve_multiple(
        profile, settings.restrictions.round_to, exporter, cache_folder(), watch,
        may_measure=decides and options.host is None,
    )  # fmt: skip
    multiple, profile = channels.number, with_multiple(profile, channels)
    refuse_unreachable(graph, costs, counted, multiple, rules)
    with ExitStack() as stack:
        device = stack.enter_context(measuring_device(options.host, exporter))
        planner = stack.enter_context(latency_planner(
            latency_budget,
            unscored_groups(graph, multiple, rules),
            objective=options.objective, graph=graph, exporter=exporter, device=device,
            profile=profile,
            names=tensor_names(graph, bool(model.inputs)), seed=settings.model.seed, watch=watch,
        ))  # fmt: skip
        data = load_images(settings, model, graph, watch)
        scores = score(graph, model, data, settings, watch)
        groups = group_scores(graph, scores, multiple, rules)
        if planner is None:
            chosen = Chosen(allocate(groups, costs, counted, watch), costs, counted)
        else:
            chosen = planner.choose(groups, counted, watch)
        allocation = chosen.allocation
        removed = removed_units(graph, groups, allocation)
        shrunk, proof, own_class_problem = remove(model, graph, removed, settings, watch)
        evaluation = Evaluation(graph, data.test, watch)
        evaluation.add("original", graph.module)
        evaluation.add("pruned", shrunk)
        recovery = recover(graph, shrunk, removed, data, settings, watch)
        evaluation.add("recovered", shrunk)
        plan = make_plan(model, graph, groups, allocation)

        folder = stack.enter_context(appearing_folder(settings.output, force=options.force))
        with watch.stage("write network"):
            artifacts = write_network(folder, shrunk, graph.inputs, plan)
        deployed = deliver(
            folder, graph, shrunk, data, exporter, device, profile, evaluation, watch,
            plan=plan, seed=settings.model.seed, with_latency=options.with_latency,
            original_file=planner.original_file if planner else None,
            held=held_groups(graph.groups, rules),
        )  # fmt: skip
        curves = {group.name: tod_curve(group.u, group.r) for group in groups}
        document = build_document(
            model=model,
            data=data,
            graph=graph,
            budgets=budgets,
            original_costs=costs.cost(group_sizes(graph)),
            shrunk_costs=allocation.costs,
            latency_search=chosen.search,
            scores=groups,
            diagnostics=diagnose(groups, allocation, chosen.costs.costs, chosen.budgets),
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
            operators=deployed.operators,
            rounding=rounding_outcome(
                channels, graph, scores, rules, groups, allocation, chosen.costs, chosen.budgets
            ),
            profile=profile,
            seed=settings.model.seed,
            command=options.command,
            stage_seconds=watch.seconds,
            warnings=watch.warnings,
            own_class_problem=own_class_problem,
        )
        write_report(folder, RunRecord(document, curves, deployed.latency))
    return ShrinkResult(settings.output, document)
