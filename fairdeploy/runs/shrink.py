"""The run, top to bottom: load, capture, score, search, remove, prove, recover, export, measure.

Only this module, with ``stages`` and ``delivery``, joins the packages. It prints nothing and never
ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.diagnostics import diagnose
from fairdeploy.allocation.restriction_outcomes import restriction_outcomes
from fairdeploy.allocation.restrictions import held_groups, rules_of
from fairdeploy.allocation.tolerance import tod_curve
from fairdeploy.deployment.devices.remote_device import measuring_device
from fairdeploy.deployment.latency.measure import require_this_machine
from fairdeploy.deployment.parity import require_parity
from fairdeploy.deployment.precision import exporter_for
from fairdeploy.errors import noted
from fairdeploy.files import appearing_folder, cache_folder, check_output_folder, kept_if_it_fails
from fairdeploy.inputs.answers import require_judged
from fairdeploy.records import AccuracyByStage, GroupScores, LoadedModel, RunRecord, UnitScores
from fairdeploy.recovery.training.best_weights import load_state
from fairdeploy.recovery.training.processes import launched_rank
from fairdeploy.reporting.run_record import build_document, write_report
from fairdeploy.runs.environment import describe_environment
from fairdeploy.runs.folder.artifact_folder import complete_folder, result_files
from fairdeploy.runs.folder.file_metadata import file_metadata
from fairdeploy.runs.folder.reload import write_network
from fairdeploy.runs.progress import Progress, SilentProgress, Stopwatch
from fairdeploy.runs.search.accuracy import final_gate, find_smallest, require_testable
from fairdeploy.runs.search.latency import Chosen, latency_planner
from fairdeploy.runs.search.steps import prune_in_steps
from fairdeploy.runs.search.trials import precise
from fairdeploy.runs.stages.delivery import deliver, tensor_names
from fairdeploy.runs.stages.evaluation import Evaluation
from fairdeploy.runs.stages.groups import (
    group_scores,
    group_sizes,
    limits_of,
    removed_units,
    unscored_groups,
)
from fairdeploy.runs.stages.loading import (
    SCORES_KEPT,
    allocate,
    capture_network,
    load_images,
    load_network,
    make_plan,
    refuse_unreachable,
    score,
)
from fairdeploy.runs.stages.multiples import resolve_multiple, rounding_outcome, with_multiple
from fairdeploy.runs.stages.removal import check_answers, remove
from fairdeploy.runs.stages.repair import mend
from fairdeploy.settings.budgets import latency_apart, parse_budgets
from fairdeploy.settings.options import ShrinkOptions
from fairdeploy.settings.run import resolve_shrink
from fairdeploy.settings.target_profiles import load_profile


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
    counted, latency_budget = latency_apart(budgets)
    check_output_folder(settings.output, force=options.force)
    profile = load_profile(settings.target)
    if options.with_latency and options.host is None:
        require_this_machine(profile)
    exporter = exporter_for(profile)
    watch = Stopwatch(progress or SilentProgress())

    model = load_network(settings.model, watch)
    graph = capture_network(model, settings.model, watch)
    check_answers(model, graph, settings.model.seed, watch)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    rules = rules_of(graph, settings.restrictions)
    refuse_unreachable(graph, costs, counted, 1, rules)
    channels = resolve_multiple(
        profile, settings.restrictions.round_to, exporter, cache_folder(), watch,
        may_measure=latency_budget is not None and options.host is None,
    )  # fmt: skip
    if latency_budget:
        channels = channels.where_latency_decides()
    profile = with_multiple(precise(profile) if latency_budget else profile, channels)
    refuse_unreachable(graph, costs, counted, channels.finest.number, rules)
    with ExitStack() as stack:
        device = stack.enter_context(measuring_device(options.host, exporter))
        planner = stack.enter_context(latency_planner(
            latency_budget,
            counted,
            {
                multiple: unscored_groups(
                    graph, multiple.number, rules, is_strict=multiple.is_strict
                )
                for multiple in channels.to_try
            },
            graph=graph, exporter=exporter, device=device,
            profile=profile,
            names=tensor_names(graph, bool(model.inputs)), seed=settings.model.seed, watch=watch,
        ))  # fmt: skip
        channels = planner.multiple if planner else channels
        data, graph = load_images(settings, model, graph, watch)
        model = replace(model, preprocessing=data.preprocessing or model.preprocessing)
        require_judged(
            data,
            max_drop=settings.max_drop,
            learns_labels=settings.tuning is not None and not settings.tuning.distill,
        )
        if budgets and settings.max_drop is not None:
            require_testable(data)
        scores = score(graph, model, data, settings, watch)
        stack.enter_context(noted(SCORES_KEPT, KeyboardInterrupt))
        rule = settings.method.allocation

        def grouped(found: UnitScores) -> tuple[GroupScores, ...]:
            return group_scores(
                graph, found, channels.number, rules, rule, is_strict=channels.is_strict
            )

        groups = grouped(scores)
        gate, started = None, None
        if not budgets:
            smallest = find_smallest(graph, groups, costs, data, settings, watch)
            chosen, gate = Chosen(smallest.allocation, costs, (smallest.budget,)), smallest.gate
        elif settings.steps > 1:
            stepped = prune_in_steps(
                graph, scores, grouped, costs, counted, data, settings, watch,
            )  # fmt: skip
            groups, started = stepped.groups, stepped.tensors
            chosen = Chosen(stepped.allocation, costs, counted)
        elif planner is None:
            chosen = Chosen(allocate(groups, costs, counted, watch, rule), costs, counted)
        else:
            chosen = planner.choose(groups, watch)
        allocation = chosen.allocation
        removed = removed_units(graph, groups, allocation)
        shrunk, proof, own_class_problem = remove(model, graph, removed, settings, watch)
        if started is not None:
            load_state(shrunk, started)
        evaluation = Evaluation(graph, data.test, watch, data)
        evaluation.add("original", graph.module)
        evaluation.add("pruned", shrunk)
        mending = mend(
            graph, shrunk, removed, data, settings, watch,
            finished=lambda step: evaluation.add(step, shrunk),
        )  # fmt: skip
        if launched_rank() > 0:  # of several processes the first writes and measures
            return ShrinkResult(settings.output, {}, model)
        plan = make_plan(model, graph, groups, allocation)
        metadata = file_metadata(
            plan.metadata(), model.preprocessing, data.class_names, graph.outputs.main
        )

        folder = stack.enter_context(appearing_folder(settings.output, force=options.force))
        with watch.stage("write network"):
            artifacts = write_network(folder, shrunk, graph.inputs, plan)
        stack.enter_context(
            kept_if_it_fails(folder, settings.output, result_files(exporter.file_suffix))
        )
        deployed = deliver(
            folder, graph, shrunk, data, exporter, device, profile, evaluation, watch,
            plan=plan, metadata=metadata, seed=settings.model.seed,
            with_latency=options.with_latency,
            original_file=planner.original_file if planner else None,
            held=held_groups(graph.groups, rules),
        )  # fmt: skip
        gate = final_gate(settings.max_drop, gate, evaluation, watch)
        curves = {
            scored.name: tod_curve(scored.u, scored.r)
            for group, scored in zip(graph.groups, groups, strict=True)
            if not group.is_branch
        }
        document = build_document(
            model=model,
            data=data,
            graph=graph,
            budgets=budgets,
            original_costs=costs.cost(group_sizes(graph)),
            shrunk_costs=allocation.costs,
            latency_search=chosen.search,
            scores=groups,
            method=settings.method,
            diagnostics=diagnose(groups, allocation, chosen.costs.costs, chosen.budgets),
            allocation=allocation,
            restrictions=restriction_outcomes(
                graph,
                rules,
                limits_of(graph, channels.number, rules, is_strict=channels.is_strict),
                {name: len(units) for name, units in allocation.removed.items()},
            ),
            proof=proof,
            mending=mending,
            artifacts=(deployed.artifact, *artifacts),
            parity=deployed.parity,
            accuracy=AccuracyByStage(**evaluation.estimates),
            changes=evaluation.changes(),
            fidelity=evaluation.fidelity,
            gate=gate,
            latency=deployed.latency,
            operators=deployed.operators,
            rounding=rounding_outcome(
                channels,
                graph,
                scores,
                rules,
                groups,
                allocation,
                chosen.costs,
                chosen.budgets,
                settings.method.allocation,
            ),
            profile=profile,
            seed=settings.model.seed,
            command=options.command,
            stage_seconds=watch.seconds,
            environment=describe_environment(),
            warnings=watch.warnings,
            own_class_problem=own_class_problem,
            file_metadata=metadata,
        )
        write_report(folder, RunRecord(document, curves, deployed.latency))
        complete_folder(folder, document)
    with noted(f"the result and its report are in '{settings.output}'"):
        require_parity(deployed.parity)
    return ShrinkResult(settings.output, document, model)
