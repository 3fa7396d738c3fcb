"""The sweep finds how wide a device's steps are, and remembers it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.deployment.latency import channel_multiples, channel_sweep
from fairdeploy.deployment.latency.channel_multiples import (
    cached_multiple,
    choose_multiple,
    measured_multiple,
)
from fairdeploy.deployment.latency.channel_sweep import (
    COUNTS,
    FEW_COUNTS,
    sweep_widths,
    time_in_turn,
)
from fairdeploy.errors import MeasurementError
from fairdeploy.records import TargetProfile, WidthTime
from tests.deployment.fakes import PROFILE, FakeClock, WorkingExporter

Cost = Callable[[int], float]


def rows(cost: Cost, counts: tuple[int, ...] = COUNTS) -> tuple[WidthTime, ...]:
    return tuple(WidthTime(count, cost(count)) for count in counts)


def sweeps(cost: Cost, counts: tuple[int, ...] = COUNTS) -> list[tuple[WidthTime, ...]]:
    """Five that agree."""
    return [rows(cost, counts)] * 5


def steps_of(width: int, power: int = 1) -> Cost:
    """Blocks of ``width`` channels, filled or not."""
    return lambda count: (width * math.ceil(count / width)) ** power


def dearer_unless_multiple_of(multiple: int) -> Cost:
    return lambda count: count * (1.0 if count % multiple == 0 else 1.3)


@pytest.mark.parametrize("counts", [COUNTS, FEW_COUNTS])
@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (float, 1),
        (lambda count: float(count) ** 2 + 40 * count + 500, 1),
        (lambda count: 3.0, 1),
        (dearer_unless_multiple_of(2), 2),
        (dearer_unless_multiple_of(4), 4),
        (steps_of(8), 8),
        (steps_of(8, power=2), 8),
        (steps_of(16), 16),
        (steps_of(16, power=2), 16),
        (steps_of(32), 32),
    ],
)
def test_the_smallest_multiple_that_costs_nearly_the_least_is_chosen(
    cost: Cost, expected: int, counts: tuple[int, ...]
) -> None:
    choice = choose_multiple(sweeps(cost, counts))
    assert (choice.multiple, choice.is_certain) == (expected, True)


def test_the_staircase_that_was_measured_with_dear_odd_counts_gives_16() -> None:
    """Milliseconds of a 3x3 convolution on one thread of a CPU with AVX-512, read off a sweep."""

    def cost(count: int) -> float:
        step = {2: 0.27, 3: 0.57, 4: 1.00, 5: 1.55, 6: 2.22}[math.ceil(count / 16)]
        return step * (1.3 if count % 4 else 1.0)

    assert choose_multiple(sweeps(cost)).multiple == 16


def test_costs_weigh_each_class_as_often_as_it_comes_up() -> None:
    costs = {
        cost.multiple: cost.relative_cost
        for cost in choose_multiple(sweeps(dearer_unless_multiple_of(4))).costs
    }
    # three quarters of all counts and half of the even ones are no multiple of 4
    assert costs[1] == pytest.approx(0.75 * 1.3 + 0.25)
    assert costs[2] == pytest.approx(0.5 * 1.3 + 0.5)
    assert [costs[4], costs[32]] == pytest.approx([1.0, 1.0])


def noisy_sweeps(cost: Cost, spread: float, seed: int) -> list[tuple[WidthTime, ...]]:
    random = np.random.default_rng(seed)
    return [rows(lambda count: cost(count) * random.normal(1, spread)) for _ in range(5)]


def test_noise_of_two_percent_does_not_change_the_choice() -> None:
    for seed in range(20):
        assert choose_multiple(noisy_sweeps(steps_of(16, 2), 0.02, seed)).multiple == 16


def test_where_noise_hides_what_multiples_cost_the_usual_one_stays() -> None:
    choices = [choose_multiple(noisy_sweeps(steps_of(16), 0.3, seed)) for seed in range(20)]
    # 5 % of intervals miss, of a few comparisons each
    assert sum(choice.multiple == 8 for choice in choices) >= 16
    assert sum(not choice.is_certain for choice in choices) >= 16


def test_one_sweep_alone_tells_nothing() -> None:
    choice = choose_multiple([rows(steps_of(16))])
    assert (choice.multiple, choice.is_certain) == (8, False)


def test_costs_come_with_the_interval_that_students_table_gives() -> None:
    """Multiples of 1 cost 1.10, 1.20 and 1.30 times those of 32 in three sweeps."""

    def odd_costs(factor: float) -> Cost:
        return lambda count: count * (factor if count % 2 else 1.0)

    choice = choose_multiple([rows(odd_costs(factor)) for factor in (1.2, 1.4, 1.6)])
    logs = np.log([1.1, 1.2, 1.3])
    half = 4.303 * logs.std(ddof=1) / math.sqrt(3)
    cost = choice.costs[0]
    assert cost.relative_cost == pytest.approx(math.exp(logs.mean()))
    assert cost.low == pytest.approx(math.exp(logs.mean() - half))
    assert cost.high == pytest.approx(math.exp(logs.mean() + half))


class CountedSweep:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, exporter: object, profile: TargetProfile) -> list[tuple[WidthTime, ...]]:
        self.num_calls += 1
        return sweeps(steps_of(16))


def test_a_sweep_is_made_once_for_each_way_to_run(tmp_path: Path) -> None:
    sweep = CountedSweep()
    first = measured_multiple(WorkingExporter(), PROFILE, tmp_path / "cache", sweep=sweep)
    again = measured_multiple(WorkingExporter(), PROFILE, tmp_path / "cache", sweep=sweep)
    assert (first.multiple, first.is_cached) == (16, False)
    assert again == replace(first, is_cached=True)
    assert sweep.num_calls == 1
    renamed = replace(PROFILE, name="other", description="the same", max_seconds=99.0)
    assert cached_multiple(renamed, tmp_path / "cache") == again
    for change in ({"threads": 2}, {"precision": "fp16"}, {"providers": ("X",)}, {"batch": 8}):
        assert cached_multiple(replace(PROFILE, **change), tmp_path / "cache") is None


def test_another_processor_or_runtime_version_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=CountedSweep())
    assert cached_multiple(PROFILE, tmp_path) is not None
    with monkeypatch.context() as patch:
        facts = {"cpu": "another", "machine": "x86_64", "cores": 2}
        patch.setattr(channel_multiples, "device_facts", lambda: facts)
        assert cached_multiple(PROFILE, tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(channel_multiples, "_versions", lambda runtime: ["onnxruntime==99"])
        assert cached_multiple(PROFILE, tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"sweeps": [], "seconds": 1}', '{"sweeps": [[]], "seconds": 1}',
     '{"sweeps": [[{"channels": 32}]], "seconds": 1}',
     '{"sweeps": [[{"channels": 32, "ms": 1.0}]], "seconds": 1}', "\x00\xff",
     json.dumps({"sweeps": [[{"channels": n, "ms": math.nan} for n in COUNTS]], "seconds": 1})],
)  # fmt: skip
def test_a_damaged_cache_is_measured_again(tmp_path: Path, content: str) -> None:
    sweep = CountedSweep()
    measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=sweep)
    (file,) = tmp_path.iterdir()
    file.write_text(content, encoding="latin-1")
    assert measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=sweep).multiple == 16
    assert sweep.num_calls == 2
    assert len(json.loads(file.read_text())["sweeps"]) == 5


def slow_at(slow: int, factor: float) -> Cost:
    return lambda count: (100.0 + count) * (factor if count == slow else 1.0)


@pytest.mark.parametrize(("slow", "factor"), [(32, 60.0), (96, 60.0), (64, 0.0), (64, math.nan)])
def test_a_sweep_with_a_slow_moment_is_no_measurement_and_is_not_kept(
    tmp_path: Path, slow: int, factor: float
) -> None:
    found = [*sweeps(steps_of(16))[1:], rows(slow_at(slow, factor))]
    with pytest.raises(MeasurementError, match="slow moment"):
        measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=lambda *_: found)
    assert list(tmp_path.iterdir()) == []
    channel_multiples._write(channel_multiples._cache_file(PROFILE, tmp_path), found, 1.0)
    assert cached_multiple(PROFILE, tmp_path) is None
    assert measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=CountedSweep())
    assert cached_multiple(PROFILE, tmp_path) is not None


def test_sweeps_that_disagree_are_no_measurement_and_are_not_kept(tmp_path: Path) -> None:
    found = [rows(steps_of(width)) for width in (4, 8, 16, 32, 2)]
    with pytest.raises(MeasurementError, match="disagree"):
        measured_multiple(WorkingExporter(), PROFILE, tmp_path, sweep=lambda *_: found)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    found = measured_multiple(WorkingExporter(), PROFILE, folder, sweep=CountedSweep())
    assert found.multiple == 16


def test_all_classes_are_swept_and_the_ends_are_multiples_of_32() -> None:
    for counts in (COUNTS, FEW_COUNTS):
        assert list(counts) == sorted(set(counts))
        assert {count & -count for count in counts} >= {1, 2, 4, 8, 16, 32}
        assert (counts[0], counts[-1], 64 in counts) == (32, 96, True)


def test_widths_are_called_in_random_turn_and_spells_of_other_load_do_not_count() -> None:
    clock, order = FakeClock(), []

    def call(width: int) -> Callable[[object], None]:
        def run(inputs: object) -> None:
            order.append(width)
            # every third round is slow for all
            clock.advance_ms(width / 20 * (9 if (len(order) - 1) // 3 % 3 == 0 else 1))

        return run

    found = time_in_turn(
        {width: call(width) for width in (64, 32, 48)}, (), np.random.default_rng(0), clock
    )
    assert [(row.channels, row.ms) for row in found] == [(32, 1.6), (48, 2.4), (64, 3.2)]
    turns = [tuple(order[start : start + 3]) for start in range(3, len(order), 3)]
    assert all(sorted(turn) == [32, 48, 64] for turn in turns)
    assert len(set(turns)) > 3
    assert len(turns) == channel_sweep.MAX_ROUNDS


def test_a_slow_device_is_asked_less_often_but_often_enough() -> None:
    clock, calls = FakeClock(), []

    def run(inputs: object) -> None:
        calls.append(1)
        clock.advance_ms(1000.0)

    time_in_turn({32: run}, (), np.random.default_rng(0), clock)
    assert len(calls) == 1 + channel_sweep.MIN_ROUNDS


class RecordingExporter(WorkingExporter):
    """Exports without a template; runs as long as its file says."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def export(self, module, example_inputs, path, *, dynamic_batch, metadata, names=None):
        self.widths.append(len(module.get_parameter("2.bias")))
        return super().export(
            module, example_inputs, path, dynamic_batch=dynamic_batch, metadata=metadata
        )


def test_an_exporter_without_templates_exports_a_few_widths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_sweep, "MAX_ROUNDS", 1)
    exporter = RecordingExporter()
    found = sweep_widths(exporter, PROFILE)
    assert len(found) == channel_sweep.NUM_SWEEPS
    for rows_of_one in found:
        assert tuple(row.channels for row in rows_of_one) == FEW_COUNTS
    assert sorted(exporter.widths) == list(FEW_COUNTS)
