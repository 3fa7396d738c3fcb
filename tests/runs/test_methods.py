"""Every signal, protection and allocation, from the command line to the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.allocation.cost import CostModel
from fairdeploy.allocation.restrictions import rules_of
from fairdeploy.allocation.search import search
from fairdeploy.cli import app as cli
from fairdeploy.errors import ProjectFileError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.calibration import SYNTHETIC_WARNING
from fairdeploy.records import (
    ALLOCATION_RULES,
    PROTECTIONS,
    SIGNALS,
    PruningMethod,
    Restrictions,
    SignalName,
    UnitScores,
)
from fairdeploy.runs.stages.groups import WEIGHTS_ONLY_WARNING, group_scores
from fairdeploy.runs.sweep import sweep
from fairdeploy.settings.budgets import parse_budgets
from fairdeploy.settings.options import RecoveryMethod, SweepOptions
from fairdeploy.settings.project_file import load_project_file
from fairdeploy.settings.run import resolve_sweep
from tests.tiny_project import network, write_project

_TYPED = ["--no-latency", "--recover", "none"]


@pytest.fixture(scope="module", autouse=True)
def _quick_files(quick_files: None) -> None:
    """No test here looks into an ONNX file."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny project with a cache of its own."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


def swept(project: Path, output: Path, *typed: str) -> dict[str, Any]:
    """What one planned network of a sweep says, made on the command line."""
    words = ["sweep", str(project / "model.pt"), "--at", "70%", "-o", str(output), "--quiet"]
    assert cli.run([*words, *_TYPED, *typed]) == 0
    document: dict[str, Any] = json.loads((output / "sweep.json").read_text())
    return document


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_plans_a_proved_network(project: Path, tmp_path: Path, signal: str) -> None:
    document = swept(project, tmp_path / "out", "--signal", signal)
    assert document["method"] == {
        "signal": signal, "protect": "taylor", "allocation": "tod", "knob": "tolerance",
    }  # fmt: skip
    point = document["points"][1]
    assert point["proof"]["passed"]
    assert 0.6 < point["left"]["params"] <= 0.7
    assert f"--signal {signal}" in point["command"]


@pytest.mark.parametrize("rule", ALLOCATION_RULES)
@pytest.mark.parametrize("protect", ["none", "l2"])
def test_every_allocation_plans_a_proved_network(
    project: Path, tmp_path: Path, rule: str, protect: str
) -> None:
    typed = ("--signal", "l1", "--protect", protect, "--allocation", rule)
    document = swept(project, tmp_path / "out", *typed)
    point = document["points"][1]
    assert point["proof"]["passed"]
    assert 0.6 < point["left"]["params"] <= 0.7
    assert (document["method"]["protect"], document["method"]["allocation"]) == (protect, rule)
    warned = any("removes and protects alike" in text for text in document["warnings"])
    assert warned == (protect == "none" and rule == "tod")


def test_allocations_differ_in_what_they_take(project: Path, tmp_path: Path) -> None:
    plans = {}
    for rule in ALLOCATION_RULES:
        swept(project, tmp_path / rule, "--signal", "l2", "--allocation", rule)
        (plan,) = (tmp_path / rule / "plans").iterdir()
        plans[rule] = json.dumps(json.loads(plan.read_text())["groups"])
    assert len({plans["tod"], plans["uniform"], plans["global"]}) == 3


def test_shrink_reports_what_decided_and_what_it_gave_up(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["shrink", str(project / "model.pt"), "-b", "60%", "-o", str(output), *_TYPED]
    assert cli.run([*words, "--signal", "l2", "--allocation", "uniform"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "decided by l2 removes, taylor protects, uniform shares out" in shown
    document = json.loads((output / "report.json").read_text())
    assert document["method"]["knob"] == "share"
    assert document["budget"][0]["met"]
    assert document["proof"]["passed"]
    # The plan is uniform pruning's own, so there is nothing to exchange.
    exchange = document["exchange"]
    assert exchange["r_mass_uniform_minus_tod"] == 0
    assert exchange["r_mass_removed"] == exchange["r_mass_uniform"] > 0
    assert exchange["r_mass_removed"] <= exchange["r_mass_bound"] <= exchange["r_mass_total"]
    assert exchange["uniform_fraction"] == document["tolerance"]
    page = (output / "report.html").read_text()
    assert "l2 removes, taylor protects, uniform shares out" in page
    assert "How it was shared out" in page
    assert "Tolerance of difference" not in page


def test_other_signals_have_scores_of_their_own_in_the_cache(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FAIRDEPLOY_CACHE", str(cache))
    for number, typed in enumerate(
        [(), ("--signal", "l2"), ("--protect", "l2"), ("--allocation", "global")]
    ):
        swept(project, tmp_path / str(number), *typed)
    # How scores are shared out does not change them.
    assert len(list(cache.glob("scores-*"))) == 3


@pytest.mark.parametrize(
    ("option", "choices"),
    [("--signal", SIGNALS), ("--protect", PROTECTIONS), ("--allocation", ALLOCATION_RULES)],
)
@pytest.mark.parametrize("command", ["shrink", "sweep"])
def test_a_value_that_is_none_of_the_choices_is_one_line(
    capsys: pytest.CaptureFixture[str], command: str, option: str, choices: tuple[str, ...]
) -> None:
    assert cli.run([command, "missing.pt", option, "l3"]) == 2
    assert capsys.readouterr().err == (
        f"error: no {option} 'l3'; use one of {', '.join(choices)}\n"
    )


def test_project_file_supplies_the_method_and_the_command_line_wins(tmp_path: Path) -> None:
    model = tmp_path / "m.pt"
    model.write_bytes(b"")
    (tmp_path / "fairdeploy.toml").write_text(
        'signal = "fpgm"\nprotect = "none"\nallocation = "global"\n'
    )
    typed = SweepOptions(model=str(model), protect="l2")
    assert resolve_sweep(typed).method == PruningMethod("fpgm", "l2", "global")
    (tmp_path / "fairdeploy.toml").unlink()
    assert resolve_sweep(SweepOptions(model=str(model))).method == PruningMethod()


@pytest.mark.parametrize(
    ("data", "recover", "signal"),
    [
        ("images", None, "reconstruction"),
        ("images", "least_squares", "reconstruction"),
        ("images", "distil", "reconstruction"),
        ("images", "batchnorm", "wasserstein"),
        ("images", "none", "wasserstein"),
        # Noise repairs nothing.
        (None, None, "wasserstein"),
    ],
)
def test_what_layers_can_make_up_for_decides_where_they_are_refitted(
    tmp_path: Path, data: str | None, recover: RecoveryMethod | None, signal: SignalName
) -> None:
    model = tmp_path / "m.pt"
    model.write_bytes(b"")
    options = SweepOptions(model=str(model), data=data, recover=recover)
    assert resolve_sweep(options).method == PruningMethod(signal=signal)
    chosen = replace(options, signal="l1")
    assert resolve_sweep(chosen).method.signal == "l1"


@pytest.mark.parametrize(
    ("key", "choices"),
    [("signal", SIGNALS), ("protect", PROTECTIONS), ("allocation", ALLOCATION_RULES)],
)
def test_project_file_names_the_choices(tmp_path: Path, key: str, choices: tuple[str, ...]) -> None:
    (tmp_path / "fairdeploy.toml").write_text(f'{key} = "l3"\n')
    with pytest.raises(ProjectFileError, match=f"{key}.*one of {', '.join(choices)}"):
        load_project_file(tmp_path)


@pytest.mark.parametrize(
    ("signal", "warning"), [("l2", WEIGHTS_ONLY_WARNING), ("apoz", SYNTHETIC_WARNING)]
)
def test_without_images_weights_alone_may_decide(
    project: Path, tmp_path: Path, signal: Any, warning: str
) -> None:
    (tmp_path / "alone").mkdir()
    model = tmp_path / "alone" / "model.pt"
    model.write_bytes((project / "model.pt").read_bytes())
    options = SweepOptions(
        model=str(model), arch=f"{project / 'arch.py'}:build", input_shape=8, at=(70.0,),
        signal=signal, protect="none", allocation="uniform", with_latency=False,
        num_calibration=8, mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    document = sweep(options).document
    assert warning in document["warnings"]
    assert document["points"][1]["proof"]["passed"]


@pytest.mark.parametrize("rule", ALLOCATION_RULES)
def test_every_allocation_honours_the_user_s_restrictions(rule: Any) -> None:
    graph = build_unit_graph(network(), network().examples())
    random = np.random.default_rng(1)
    scores = UnitScores(random.random(graph.num_units), random.random(graph.num_units), 2, 0)
    first, second = graph.groups[:2]
    rules = rules_of(graph, Restrictions(exclude=(first.name,), max_prune=(("*", 0.5),)))
    groups = group_scores(graph, scores, 2, rules, rule)
    costs = CostModel(graph.cost_terms, len(graph.groups))
    allocation = search(groups, costs.costs, parse_budgets(["params=80%"]))
    assert not allocation.removed[first.name]
    assert (
        0.7
        < allocation.costs["params"]
        / costs.cost(np.array([group.size for group in graph.groups]))["params"]
        <= 0.8
    )
    for group in groups:
        count, size = len(allocation.removed[group.name]), len(group.u)
        assert count <= size // 2
        assert count == 0 or (size - count) % group.step == 0
    assert second.name in allocation.removed
