"""Which multiple a sweep rounds channel counts to, and how ``shrink`` is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.restrictions import Rule
from fairdeploy.allocation.search import reachable_range
from fairdeploy.errors import OutputError
from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import TargetProfile, default_multiple
from fairdeploy.runs.stages.groups import unscored_groups
from fairdeploy.runs.stages.multiples import Multiple
from fairdeploy.settings.options import SweepOptions
from fairdeploy.settings.run import SweepSettings
from fairdeploy.settings.target_profiles import profile_toml

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
