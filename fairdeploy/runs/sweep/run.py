"""The sweep, top to bottom: load, capture, score once, plan every point, measure each, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fairdeploy.allocation.search import reachable_range
from fairdeploy.allocation.sweep_plans import plan_points, target_notes
from fairdeploy.allocation.sweep_targets import capped_targets, shares_between, spread_targets
from fairdeploy.allocation.trade_off import find_trade_off
from fairdeploy.errors import OutputError, noted
from fairdeploy.files import appearing_folder, kept_if_it_fails
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    DataSplits,
    GroupScores,
    LoadedModel,
    PairedDifference,
    PlannedPoint,
    Quality,
    Sweep,
    SweepPoint,
    SweepTarget,
    TargetProfile,
    TradeOff,
    default_multiple,
)
from fairdeploy.reporting.sweep_record import (
    SWEEP_FILE,
    SWEEP_PAGE,
    build_sweep_document,
    write_sweep,
)
from fairdeploy.runs.environment import describe_environment
from fairdeploy.runs.problem import Problem
from fairdeploy.runs.progress import Progress
from fairdeploy.runs.run import Run, open_run
from fairdeploy.runs.stages.loading import capture_network, load_images, load_network
from fairdeploy.runs.stages.multiples import Multiple, multiple_row
from fairdeploy.runs.stages.plan import SCORES_KEPT, make_plan, score
from fairdeploy.runs.stages.removal import check_answers
from fairdeploy.runs.stages.repair import recovery_method
from fairdeploy.runs.sweep.next_commands import closer_command, shrink_command
from fairdeploy.runs.sweep.points import PointMeter
from fairdeploy.settings.options import SweepOptions
from fairdeploy.settings.run import SweepSettings, resolve_sweep
from fairdeploy.settings.target_profiles import profile_toml
from fairdeploy.tasks.base import Task

PLANS_FOLDER = "plans"


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Where everything is, and ``sweep.json`` as a dictionary."""

    output: Path
    document: Mapping[str, Any]


def sweep(options: SweepOptions, progress: Progress | None = None) -> SweepResult:
    """Measure networks between the smallest and the original, from one scoring run.

    Raises:
        FairdeployError: With the exit code for the command line; then nothing was written, but the
            scores stay cached.
    """
    settings = resolve_sweep(options)
    with open_run(settings, progress, exports=settings.with_latency) as run, ExitStack() as stack:
        model = load_network(settings.model, run.watch)
        graph = capture_network(model, settings.model, run.watch)
        check_answers(model, graph, run.seed, run.watch)
        problem = Problem.of(run, model, graph, may_measure=settings.with_latency)
        problem = settled(problem, settings)
        told = told_options(options, settings.output, run.profile, problem.multiple)
        targets = _targets(settings, problem)
        data, graph = load_images(run, model, graph)
        problem = replace(problem, graph=graph)
        scores = score(run, graph, data)
        groups = problem.groups(scores)
        with run.watch.stage("plan points") as stage:
            planned = plan_points(groups, problem.costs.costs, targets)
            stage.note(f"{len(planned)} plans from one scoring")
        notes = tuple(target_notes(planned, targets))
        for text in notes:
            run.watch.warn(text)
        folder = stack.enter_context(appearing_folder(settings.output, force=settings.force))
        stack.enter_context(noted(SCORES_KEPT, KeyboardInterrupt))
        write_target(folder, run.profile, problem.multiple)
        _write_plans(folder / PLANS_FOLDER, planned, model, graph, groups)
        stack.enter_context(kept_if_it_fails(folder, settings.output, (SWEEP_FILE, SWEEP_PAGE)))
        result = _measure(run, problem, groups, data, planned, notes)
        document = _document(run, problem, result, (model, data), told)
        write_sweep(folder, document)
    return SweepResult(settings.output, document)


def _document(
    run: Run[SweepSettings],
    problem: Problem,
    result: Sweep,
    loaded: tuple[LoadedModel, DataSplits],
    told: SweepOptions,
) -> dict[str, Any]:
    """``sweep.json``."""
    model, data = loaded
    return build_sweep_document(
        result,
        model=model,
        graph=problem.graph,
        data=data,
        profile=problem.profile,
        recovery=recovery_method(data, run.settings),
        method=run.settings.method,
        plans_folder=PLANS_FOLDER,
        shrink_commands={
            point.name: shrink_command(told, point.plan.budget.text)
            for point in result.points
            if point.plan is not None
        },
        closer_command=_closer(result, told, run.settings),
        channel_multiple=multiple_row(problem.multiple),
        seed=run.seed,
        command=run.settings.command,
        stage_seconds=run.watch.seconds,
        environment=describe_environment(),
        warnings=run.watch.warnings,
    )


def _targets(settings: SweepSettings, problem: Problem) -> tuple[SweepTarget, ...]:
    smallest, original = reachable_range(problem.groups(), problem.costs.costs)[settings.metric]
    if settings.percents is None:
        return spread_targets(settings.metric, smallest, original, settings.num_points)
    return capped_targets(settings.metric, smallest, original, settings.percents)


def _measure(
    run: Run[SweepSettings],
    problem: Problem,
    groups: tuple[GroupScores, ...],
    data: DataSplits,
    planned: Sequence[PlannedPoint],
    notes: tuple[str, ...],
) -> Sweep:
    """The original and the network of every plan, each made, tested and raced."""
    meter = PointMeter(run, problem, groups, data)
    first = meter.original()
    points = [
        meter.measure(plan, f"point {number} of {len(planned)}")
        for number, plan in enumerate(planned, start=1)
    ]
    differences = [
        point.proof.norm_coupled_difference
        for point in points
        if point.proof is not None and point.proof.norm_coupled_difference is not None
    ]
    if differences:
        run.watch.warn(
            f"{len(differences)} of {len(points)} networks have layer norms over fewer channels "
            "(--allow-norm-coupled), which is not exact: before repair their outputs differ by up "
            f"to {max(differences):.1e} of the largest output; the proof covers everything else"
        )
    labels = None if data.test is None else data.test.labels
    metric, task, rows = run.settings.metric, problem.graph.outputs.task, (first, *points)
    smallest = reachable_range(problem.groups(), problem.costs.costs)[metric][0]
    trade_off = _trade_off(task, rows, labels, run.settings)
    return Sweep(metric, smallest, rows, trade_off, _differences(task, rows, first, labels), notes)


def _trade_off(
    task: Task, points: Sequence[SweepPoint], labels: Tensor | None, settings: SweepSettings
) -> TradeOff:
    """By accuracy; by R-mass where there are no labelled test images."""
    costs = [point.costs[settings.metric] for point in points]
    values = [point.accuracy.value for point in points if point.accuracy is not None]
    if len(values) < len(points):
        kept = [1.0 - point.r_mass_share for point in points]
        return find_trade_off(costs, [Quality(x, x, x) for x in kept], "r_mass_kept")
    best = points[int(np.argmax(values))]
    qualities = [
        Quality(value, max(values) + difference.low, max(values) + difference.high)
        for value, difference in zip(values, _differences(task, points, best, labels), strict=True)
        if difference is not None
    ]
    return find_trade_off(costs, qualities)


def _differences(
    task: Task, points: Sequence[SweepPoint], reference: SweepPoint, labels: Tensor | None
) -> tuple[PairedDifference | None, ...]:
    """By point: accuracy minus that of ``reference``, on the same test images."""
    return tuple(
        None
        if labels is None or point.answers is None or reference.answers is None
        else task.difference(reference.answers, point.answers, labels)
        for point in points
    )


def _closer(result: Sweep, options: SweepOptions, settings: SweepSettings) -> str | None:
    """How to look at what lies between the knee and its neighbours; None where nothing does."""
    knee, metric = result.trade_off.knee, result.metric
    if knee is None:
        return None
    neighbours = result.points[max(knee - 1, 0) : knee + 2]
    original = result.points[0].costs[metric]
    percents = shares_between([point.costs[metric] / original for point in neighbours])
    if not percents:
        return None
    output = settings.output.with_name(f"{settings.output.name}-closer")
    return closer_command(options, percents, output)


def _write_plans(
    folder: Path,
    planned: Sequence[PlannedPoint],
    model: LoadedModel,
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
) -> None:
    try:
        folder.mkdir()
        for point in planned:
            plan = make_plan(model, graph, groups, point.allocation)
            (folder / f"{point.name}.json").write_text(plan.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write in '{folder}': {error.strerror or error}") from error


# ---- which multiple a sweep rounds channel counts to, and how ``shrink`` is told of it -----------


TARGET_FILE = "target.toml"


def settled(problem: Problem, settings: SweepSettings) -> Problem:
    """With short races, and the first multiple that reaches all shares asked for; else the finest.

    Races are shorter than those of ``shrink``, because there are many in a row.
    """
    problem = replace(problem, profile=shortened(problem.profile))
    if settings.percents is None:
        return problem
    for multiple in problem.multiple.to_try:
        rounded = problem.rounded_to(multiple)
        costs = reachable_range(rounded.groups(), problem.costs.costs)
        smallest, original = costs[settings.metric]
        if smallest <= min(settings.percents) / 100 * original:
            return rounded
    return problem.rounded_to(problem.multiple.finest)


def told_options(
    options: SweepOptions, output: Path, profile: TargetProfile, channels: Multiple
) -> SweepOptions:
    """Options whose commands make the sweep's own plans.

    ``shrink`` measures multiples only where latency decides, so one that was measured here is
    handed on in a target profile beside the results.

    Args:
        options: The user's.
        output: Folder of the results.
        profile: The target.
        channels: What was decided.
    """
    if is_default(profile, channels):
        return options
    return replace(options, target=str(output / TARGET_FILE))


def write_target(folder: Path, profile: TargetProfile, channels: Multiple) -> None:
    """Write the profile with its multiple, where ``shrink`` would not take that by itself.

    Raises:
        OutputError: The disk refused.
    """
    if is_default(profile, channels):
        return
    text = profile_toml(replace(profile, channel_multiple=channels.number))
    try:
        (folder / TARGET_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write in '{folder}': {error.strerror or error}") from error


def is_default(profile: TargetProfile, channels: Multiple) -> bool:
    """Whether ``shrink`` rounds to this multiple without being told."""
    return channels.source == "--round-to" or channels.number == default_multiple(profile)


_SHORTER = 4


def shortened(profile: TargetProfile) -> TargetProfile:
    """The same target with a quarter of the time for a race, and none with pauses."""
    return replace(
        profile,
        warmup_seconds=profile.warmup_seconds / _SHORTER,
        max_seconds=profile.max_seconds / _SHORTER,
        idle_gap_ms=None,
    )
