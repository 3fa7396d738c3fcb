"""How often the race's interval holds the truth, on made-up noise whose truth is known.

``python tests/benchmarks/interval_coverage.py`` races two networks that are alike, on a clock that
only they move, under four kinds of noise, and counts how often the 95 % interval holds 1.0 and how
often the race decides for one side although there is none. It needs no quiet machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np

from fairdeploy.deployment.latency.race import RaceResult, RaceSettings, race

_CALL_MS = 5.0
_OWN = 0.05
"""Spread of each network's own noise."""

Noise = Callable[[np.random.Generator], Iterator[float]]
"""Factors on one network's durations, call by call."""


class NoiseClock:
    """Moves only when a network runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        """Nanoseconds."""
        return self.now_ns


def independent(rng: np.random.Generator) -> Iterator[float]:
    """Every call by itself."""
    while True:
        yield math.exp(_OWN * rng.standard_normal())


def heavy_tailed(rng: np.random.Generator) -> Iterator[float]:
    """One call in twenty is interrupted, some for long."""
    while True:
        yield math.exp(_OWN * rng.standard_normal()) * (1 + (rng.random() < 0.05) * rng.pareto(1.5))


def correlated(rng: np.random.Generator) -> Iterator[float]:
    """Each network drifts on its own: correlation 0.9 from call to call."""
    level = 0.0
    while True:
        level = 0.9 * level + math.sqrt(1 - 0.9**2) * rng.standard_normal()
        yield math.exp(_OWN * level)


def own_spells(rng: np.random.Generator) -> Iterator[float]:
    """Spells of some 40 calls hit each network on its own, 1.2 to 1.6 times as slow."""
    while True:
        factor = rng.uniform(1.2, 1.6) if rng.random() < 0.3 else 1.0
        for _ in range(rng.geometric(1 / 40)):
            yield factor * math.exp(_OWN * rng.standard_normal())


NOISES: dict[str, Noise] = {
    "independent": independent,
    "heavy-tailed": heavy_tailed,
    "correlated 0.9": correlated,
    "spells of 40": own_spells,
}


def trial(noise: Noise, settings: RaceSettings, seed: int) -> RaceResult:
    """One race of two networks that are alike."""
    clock = NoiseClock()
    seeds = np.random.SeedSequence(seed).spawn(2)

    def network(factors: Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            clock.now_ns += int(_CALL_MS * next(factors) * 1e6)

        return call

    calls = [network(noise(np.random.default_rng(one))) for one in seeds]
    return race(calls, settings, seed=seed, clock=clock)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    options = parser.parse_args()
    usual = RaceSettings(0.5, 40, options.max_seconds, ratio_interval=0.04)
    deciding = RaceSettings(0.5, 40, options.max_seconds, ratio_interval=0.04, decide_ratio=1.0)
    print(f"{'noise':<16}{'holds 1.0':>10}{'pairs':>7}{'decides wrongly':>17}")
    for name, noise in NOISES.items():
        found = [trial(noise, usual, seed) for seed in range(options.runs)]
        holds = np.mean([one.interval.low <= 1.0 <= one.interval.high for one in found])
        pairs = np.median([len(one.times_ms[0]) for one in found])
        decided = [
            "one side" in trial(noise, deciding, seed).stopped_because
            for seed in range(options.runs)
        ]
        print(f"{name:<16}{holds:>10.1%}{pairs:>7.0f}{np.mean(decided):>17.1%}", flush=True)


if __name__ == "__main__":
    main()
