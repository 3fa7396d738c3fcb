"""Commands to type after a sweep: make one of its networks, or look closer at its knee."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairdeploy.settings.option import options_of
from fairdeploy.settings.options import RunOptions, SweepOptions

_OF_ONE_RUN = {"model", "output", "force", "with_latency"}


def shrink_command(options: SweepOptions, budget: str) -> str:
    """As it can be typed where the sweep was: the same options with this budget.

    What came from ``fairdeploy.toml`` is not repeated, since it is found there again.
    """
    words = ["fairdeploy", "shrink", options.model, "--budget", budget, *_words(options)]
    return shlex.join(words)


def closer_command(options: SweepOptions, percents: Sequence[float], output: Path) -> str:
    """The same sweep at other shares, into another folder."""
    shares = ",".join(f"{percent:g}%" for percent in percents)
    words = ["fairdeploy", "sweep", options.model, "--at", shares, "-o", str(output)]
    if options.metric is not None:
        words += ["--metric", options.metric]
    if not options.with_latency:
        words.append("--no-latency")
    return shlex.join([*words, *_words(options)])


def _words(options: SweepOptions) -> Iterator[str]:
    """What was typed of a sweep that a run takes too, and that is not of this run alone."""
    for name, option in options_of(RunOptions).items():
        if name not in _OF_ONE_RUN:
            yield from option.words(getattr(options, name))
