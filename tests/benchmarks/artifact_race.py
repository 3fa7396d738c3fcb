"""Races any number of networks, each with its own runtime, call by call in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.devices.device_facts import load_average
from fairdeploy.deployment.exporter_api import Runner
from fairdeploy.deployment.latency.bootstrap import bootstrap_interval
from fairdeploy.deployment.latency.race import RaceSettings, race, relative_spread

Inputs = tuple[NDArray[Any], ...]
Open = Callable[[], Runner]

WARMUP_SECONDS = 3.0
MIN_ROUNDS = 40


def race_all(
    opens: Sequence[Open], inputs: Inputs, *, seconds: float, seed: int = 0
) -> dict[str, Any]:
    """Milliseconds of each network, and its time over that of the first with a 95 % interval.

    What is opened last is faster, so the last network is opened once more and that copy stays idle.
    """
    settings = RaceSettings(
        warmup_seconds=WARMUP_SECONDS, min_pairs=MIN_ROUNDS, max_seconds=seconds, ratio_interval=0.0
    )
    before = load_average()
    with ExitStack() as stack:
        calls = [_opened(open_runner, inputs, stack) for open_runner in opens]
        idle = _opened(opens[-1], inputs, stack)
        idle()
        result = race(calls, settings, seed=seed)
    first = np.asarray(result.times_ms[0])
    rng = np.random.default_rng(seed)
    rows = []
    for times_ms in result.times_ms:
        interval = bootstrap_interval(np.asarray([times_ms, first]), rng)
        rows.append(
            {
                "median_ms": float(np.median(times_ms)),
                "spread": relative_spread(times_ms),
                "ratio": interval.value,
                "ratio_low": interval.low,
                "ratio_high": interval.high,
            }
        )
    return {
        "rows": rows,
        "num_rounds": len(first),
        "stopped_because": result.stopped_because,
        "load_before": before,
        "load_after": load_average(),
    }


def _opened(open_runner: Open, inputs: Inputs, stack: ExitStack) -> Callable[[], object]:
    runner = open_runner()
    stack.callback(runner.close)
    return lambda: runner.run(inputs)
