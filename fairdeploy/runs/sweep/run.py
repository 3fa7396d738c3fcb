"""The sweep, top to bottom: load, capture, score once, plan every point, measure each, report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.restrictions import Rule, rules_of
from fairdeploy.allocation.search import reachable_range
from fairdeploy.allocation.sweep_plans import plan_points, target_notes
from fairdeploy.allocation.sweep_targets import capped_targets, shares_between, spread_targets
from fairdeploy.allocation.trade_off import find_trade_off
from fairdeploy.deployment.devices.local_device import LocalDevice
from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency.measure import require_this_machine
from fairdeploy.deployment.precision import exporter_for
from fairdeploy.errors import OutputError, noted
from fairdeploy.files import appearing_folder, cache_folder, check_output_folder, kept_if_it_fails
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.inputs.answers import require_judged
from fairdeploy.records import (
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
from fairdeploy.runs.progress import Progress, SilentProgress, Stopwatch
from fairdeploy.runs.search.trials import LatencyTrials, TrialSetting
from fairdeploy.runs.stages.delivery import tensor_names
from fairdeploy.runs.stages.groups import (
    group_scores,
    group_sizes,
    smallest_plan_units,
    unscored_groups,
)
from fairdeploy.runs.stages.loading import (
    SCORES_KEPT,
    capture_network,
    load_images,
    load_network,
    make_plan,
    recovery_method,
    score,
)
from fairdeploy.runs.stages.multiples import Multiple, multiple_row, resolve_multiple, with_multiple
from fairdeploy.runs.stages.removal import check_answers
from fairdeploy.runs.sweep.next_commands import closer_command, shrink_command
from fairdeploy.runs.sweep.points import PointMeter
from fairdeploy.settings.options import SweepOptions
from fairdeploy.settings.run import SweepSettings, resolve_sweep
from fairdeploy.settings.target_profiles import load_profile, profile_toml
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
    check_output_folder(settings.output, force=options.force)
    target = load_profile(settings.target)
    if options.with_latency:
        require_this_machine(target)
    exporter = exporter_for(target) if options.with_latency else None
    watch = Stopwatch(progress or SilentProgress())

    model = load_network(settings.model, watch)
    graph = capture_network(model, settings.model, watch)
    check_answers(model, graph, settings.model.seed, watch)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    rules = rules_of(graph, settings.restrictions)
    channels = resolve_multiple(
        target, settings.restrictions.round_to, exporter, cache_folder(), watch,
        may_measure=options.with_latency,
    )  # fmt: skip
    channels = settled_multiple(channels, graph, costs, rules, settings)
    profile = with_multiple(shortened(target), channels)
    told = told_options(options, settings.output, target, channels)
    unscored = unscored_groups(graph, channels.number, rules)
    smallest, original = reachable_range(unscored, costs.costs)[settings.metric]
    targets = _targets(settings, smallest, original)
    data, graph = load_images(settings, model, graph, watch)
    require_judged(
        data,
        max_drop=None,
        learns_labels=settings.tuning is not None and not settings.tuning.distill,
    )
    scores = score(graph, model, data, settings, watch)
    groups = group_scores(graph, scores, channels.number, rules, settings.method.allocation)
    with watch.stage("plan points") as stage:
        planned = plan_points(groups, costs.costs, targets)
        stage.note(f"{len(planned)} plans from one scoring")
    notes = tuple(target_notes(planned, targets))
    for text in notes:
        watch.warn(text)

    with appearing_folder(settings.output, force=options.force) as folder, ExitStack() as stack:
        stack.enter_context(noted(SCORES_KEPT, KeyboardInterrupt))
        write_target(folder, target, channels)
        _write_plans(folder / PLANS_FOLDER, planned, model, graph, groups)
        stack.enter_context(kept_if_it_fails(folder, settings.output, (SWEEP_FILE, SWEEP_PAGE)))
        trials = stack.enter_context(latency_trials(
            exporter, model, graph, unscored, profile, seed=settings.model.seed, watch=watch
        ))  # fmt: skip
        meter = PointMeter(graph, groups, data, settings, trials, watch)
        first = meter.original(costs.cost(group_sizes(graph)))
        points = (first, *_measure(planned, meter, watch))
        labels = None if data.test is None else data.test.labels
        task = graph.outputs.task
        differences = _differences(task, points, first, labels)
        trade_off = _trade_off(task, points, labels, settings)
        result = Sweep(settings.metric, smallest, points, trade_off, differences, notes)
        document = build_sweep_document(
            result,
            model=model,
            graph=graph,
            data=data,
            profile=profile,
            recovery=recovery_method(data, settings),
            method=settings.method,
            plans_folder=PLANS_FOLDER,
            shrink_commands={
                point.name: shrink_command(told, point.budget.text) for point in planned
            },
            closer_command=_closer(result, told, settings),
            channel_multiple=multiple_row(channels),
            seed=settings.model.seed,
            command=options.command,
            stage_seconds=watch.seconds,
            environment=describe_environment(),
            warnings=watch.warnings,
        )
        write_sweep(folder, document)
    return SweepResult(settings.output, document)


def _targets(settings: SweepSettings, smallest: float, original: float) -> tuple[SweepTarget, ...]:
    if settings.percents is None:
        return spread_targets(settings.metric, smallest, original, settings.num_points)
    return capped_targets(settings.metric, smallest, original, settings.percents)


def _measure(
    planned: Sequence[PlannedPoint], meter: PointMeter, watch: Stopwatch
) -> list[SweepPoint]:
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
        watch.warn(
            f"{len(differences)} of {len(points)} networks have layer norms over fewer channels "
            "(--allow-norm-coupled), which is not exact: before repair their outputs differ by up "
            f"to {max(differences):.1e} of the largest output; the proof covers everything else"
        )
    return points


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


def settled_multiple(
    channels: Multiple,
    graph: UnitGraph,
    costs: CostModel,
    rules: Sequence[Rule],
    settings: SweepSettings,
) -> Multiple:
    """The first multiple that reaches all shares that the user asks for; else the finest."""
    if settings.percents is None:
        return channels
    for multiple in channels.to_try:
        groups = unscored_groups(graph, multiple.number, rules)
        smallest, original = reachable_range(groups, costs.costs)[settings.metric]
        if smallest <= min(settings.percents) / 100 * original:
            return multiple
    return channels.finest


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


# ---- races of a sweep: shorter than those of ``shrink``, because there are many in a row ---------


_SHORTER = 4


def shortened(profile: TargetProfile) -> TargetProfile:
    """The same target with a quarter of the time for a race, and none with pauses."""
    return replace(
        profile,
        warmup_seconds=profile.warmup_seconds / _SHORTER,
        max_seconds=profile.max_seconds / _SHORTER,
        idle_gap_ms=None,
    )


@contextmanager
def latency_trials(
    exporter: Exporter | None,
    model: LoadedModel,
    graph: UnitGraph,
    groups: tuple[GroupScores, ...],
    profile: TargetProfile,
    *,
    seed: int,
    watch: Stopwatch,
) -> Iterator[LatencyTrials | None]:
    """Races against the original for as long as the block runs; None without an exporter.

    Args:
        exporter: Writes and opens the files.
        model: The network.
        graph: Its graph.
        groups: With their caps and steps; their scores do not matter.
        profile: With the limits that races shall have.
        seed: Of inputs and races.
        watch: Shows the export.
    """
    if exporter is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with watch.stage("export both ends"):
            setting = TrialSetting(
                graph, exporter, LocalDevice(exporter), profile,
                tensor_names(graph, bool(model.inputs)), Path(folder), seed,
            )  # fmt: skip
            trials = LatencyTrials(setting, smallest_plan_units(graph, groups))
        yield trials
