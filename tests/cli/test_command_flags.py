"""Options that are written down once appear in every command that takes them."""

from __future__ import annotations

import inspect

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.cli.commands.inspect import inspect as inspect_command
from fairdeploy.cli.commands.shrink import shrink
from fairdeploy.cli.commands.sweep import sweep


def test_commands_show_each_shared_option_as_their_own() -> None:
    of_shrink, of_sweep, of_inspect = (
        dict(inspect.signature(command).parameters) for command in (shrink, sweep, inspect_command)
    )
    assert "flags" not in of_shrink | of_sweep | of_inspect
    shared = of_shrink.keys() & of_sweep.keys()
    assert {"data", "exclude", "max_prune", "round_to", "no_latency", "trust_pickle"} <= shared
    assert of_shrink.keys() - shared == {
        "budget", "max_drop", "smallest", "steps", "host", "port", "remote_python",
        "ssh_option",
    }  # fmt: skip
    assert of_sweep.keys() - shared == {"metric", "points", "at"}
    assert of_inspect.keys() - shared == {"prove", "depth"}
    assert shared - of_inspect.keys() == {
        "data", "output", "recover", "signal", "protect", "allocation", "num_calibration", "mean",
        "std", "crop_pct", "crop_mode", "interpolation", "channel_order", "white", "class_names",
        "class_order", "task", "force", "no_latency", "quiet", "finetune", "distill",
        "learning_rate", "batch_size", "num_selection",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["shrink", "sweep", "inspect"])
def test_help_lists_shared_options_under_their_heading(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("What may go") < shown.index("--exclude")
    assert "Seed" not in shown
    assert "--trust-pickle" in shown
