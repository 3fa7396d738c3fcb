"""Commands to type after a sweep: make one of its networks, or look closer at its knee."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fairdeploy.settings.options import SweepOptions, TrainingOptions
from fairdeploy.settings.values import EVERY_MODULE, InputShape


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
    single = {
        "--data": options.data,
        "--arch": options.arch,
        "--target": options.target,
        "--recover": options.recover,
        "--signal": options.signal,
        "--protect": options.protect,
        "--allocation": options.allocation,
        "--num-calibration": options.num_calibration,
        "--round-to": options.round_to,
        "--attention": options.attention,
        "--weights": options.weights,
        "--num-classes": options.num_classes,
        "--input-size": _size(options.input_shape),
        "--main-output": options.main_output,
        "--fixed-batch": options.fixed_batch,
        "--mean": _numbers(options.mean),
        "--std": _numbers(options.std),
        "--crop-pct": options.crop_pct,
        "--crop-mode": options.crop_mode,
        "--interpolation": options.interpolation,
        "--channel-order": options.channel_order,
        "--white": options.white,
        "--class-names": ",".join(options.class_names) if options.class_names else None,
        "--class-order": options.class_order,
        "--seed": options.seed,
        "--num-selection": options.num_selection,
    }
    for flag, value in single.items():
        if value is not None:
            yield from (flag, str(value))
    several = {
        "--include": options.include,
        "--exclude": options.exclude,
        "--max-prune": _by_glob(options.max_prune),
        "--min-units": _by_glob(options.min_units),
        "--input": options.inputs,
    }
    for flag, values in several.items():
        for text in values or ():
            yield from (flag, text)
    yield from _training_words(options)
    if options.allow_norm_coupled:
        yield "--allow-norm-coupled"
    if options.blocks is not None:
        yield "--blocks" if options.blocks else "--no-blocks"
    if options.trust_pickle:
        yield "--trust-pickle"
    if options.trust_project:
        yield "--trust-project"


def _training_words(training: TrainingOptions) -> Iterator[str]:
    numbers = {
        "--finetune": training.finetune,
        "--learning-rate": training.learning_rate,
        "--batch-size": training.batch_size,
    }
    for flag, value in numbers.items():
        if value is not None:
            yield from (flag, repr(value))
    if training.distill or training.distill_features:
        yield "--distill-features" if training.distill_features else "--distill"
    if training.ema:
        yield "--ema"


def _size(shape: InputShape | None) -> str | None:
    return ",".join(map(str, shape)) if isinstance(shape, tuple) else _text(shape)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _numbers(values: Sequence[float] | None) -> str | None:
    return None if values is None else ",".join(map(repr, values))


def _by_glob(pairs: Sequence[tuple[str, float]] | None) -> list[str]:
    return [
        repr(value) if glob == EVERY_MODULE else f"{glob}={value!r}" for glob, value in pairs or ()
    ]
