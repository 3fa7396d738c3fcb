"""The printed commands mean what the sweep was told."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.runs import shrink as pipeline
from fairdeploy.runs import sweep
from fairdeploy.runs.sweep.next_commands import closer_command, shrink_command
from fairdeploy.settings.options import ShrinkOptions, SweepOptions

SHARED: dict[str, Any] = {
    "model": "my model.pt", "data": "images here", "arch": "timm:resnet18", "target": "cpu",
    "recover": "batchnorm", "signal": "bn-scale", "protect": "none", "allocation": "global",
    "num_calibration": 64, "num_classes": 10, "input_shape": (3, 32, 48),
    "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "seed": 0, "trust_pickle": True,
    "include": ("layer*", "stem"), "exclude": ("fc",), "max_prune": (("*", 0.7), ("a.*", 0.3)),
    "min_units": (("*", 8), ("a=b", 4)), "round_to": 16, "attention": "both",
    "allow_norm_coupled": True, "blocks": True, "inputs": ("image:3,32,48", "tokens:77:int64"),
    "main_output": "logits", "fixed_batch": 2, "weights": "model_ema",
}  # fmt: skip


class Reached(BaseException):
    """Carries what the command line understood past whatever reports errors there."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options


def understood(monkeypatch: pytest.MonkeyPatch, command: str) -> Any:
    """The options that the command line makes of a printed command."""

    def stop(options: Any, *_: object) -> None:
        raise Reached(options)

    monkeypatch.setattr(pipeline, "shrink", stop)
    monkeypatch.setattr(sweep, "sweep", stop)
    program, *words = shlex.split(command)
    assert program == "fairdeploy"
    monkeypatch.setattr("sys.argv", ["fairdeploy"])
    with pytest.raises(Reached) as caught:
        cli.run(words)
    return caught.value.options


def test_shrink_command_repeats_every_option_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = SweepOptions(metric="macs", points=5, output=Path("out"), force=True, **SHARED)
    options = understood(monkeypatch, shrink_command(swept, "macs=39%"))
    assert options == ShrinkOptions(budgets=("macs=39%",), command=("fairdeploy",), **SHARED)


def test_shrink_command_is_short_where_nothing_was_typed() -> None:
    command = shrink_command(SweepOptions(model="model.pt", with_latency=False), "params=13%")
    assert command == "fairdeploy shrink model.pt --budget params=13%"


def test_closer_command_is_the_same_sweep_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = SweepOptions(metric="size", points=5, with_latency=False, **SHARED)
    options = understood(monkeypatch, closer_command(swept, (45.0, 37.5), Path("my sweep")))
    assert options == SweepOptions(
        metric="size", at=(45.0, 37.5), output=Path("my sweep"), with_latency=False,
        command=("fairdeploy",), **SHARED,
    )  # fmt: skip
