"""``inspect`` on small networks, with numbers counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fairdeploy
from fairdeploy.allocation.restrictions import rules_of
from fairdeploy.errors import UsageError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import LoadedModel, Preprocessing, Restrictions
from fairdeploy.runs.inspect import inspect, inspection_document, random_proof
from fairdeploy.runs.inspect.random_proof import prove_random_removal, random_removal
from fairdeploy.runs.inspect.standing_rows import NEVER_USED
from fairdeploy.runs.progress import Stopwatch
from fairdeploy.runs.stages import multiples as rounding
from fairdeploy.runs.stages.groups import limits_of
from fairdeploy.settings.options import InspectOptions
from tests.allocation.restricted_networks import TwoStages
from tests.progress_recorder import RecordedProgress
from tests.runs.test_rounding import sixteen


@torch.library.custom_op("fairdeploy_tests::strange", mutates_args=())
def strange(x: Tensor) -> Tensor:
    """An operation that nobody wrote a rule for."""
    return x.clone()


@strange.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Frozen(nn.Module):
    """``body.0`` (8) can shrink; a layer norm holds ``body.1``, and no rule knows ``strange``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1))
        self.norm = nn.LayerNorm([6, 4, 4])
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        return self.head(strange(self.norm(self.body(x)).mean((2, 3))))


def loaded(module: nn.Module, size: int) -> LoadedModel:
    shape = Preprocessing(3, size, size, (0.0,) * 3, (1.0,) * 3)
    return LoadedModel("net", module.eval(), True, shape, "", "net.pt")


def document(module: nn.Module, size: int, **options: object) -> dict[str, Any]:
    """The document where the target has no preference for multiples."""
    model = loaded(module, size)
    graph = build_unit_graph(model.module, (torch.zeros(2, 3, size, size),))
    rules = rules_of(graph, Restrictions(**options))  # type: ignore[arg-type]
    return inspection_document(model, graph, rules, limits_of(graph, 1, rules))


def rows_by_module(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["module"]: row for row in found["modules"]}


def test_modules_are_listed_as_a_tree_in_the_order_of_the_network() -> None:
    names = [row["module"] for row in document(TwoStages(), 8)["modules"]]
    assert names == [
        "", "stem", "stem.conv", "stem.norm", "body", "body.0", "body.0.inner", "body.0.out",
        "tail", "tail.conv", "head",
    ]  # fmt: skip


def test_share_that_can_go_is_counted_index_by_index() -> None:
    rows = rows_by_module(document(TwoStages(), 8))
    # One of 12 channels stays in the stream, one of 24 inside, one of 32 at the end.
    assert rows["stem.conv"]["params"] == 12 * 3 * 9 + 12
    assert rows["stem.conv"]["removable_params"] == 11 * 3 * 9 + 11
    assert rows["body.0.inner"]["removable_params"] == (12 * 24 - 1) + 23
    assert rows["head"]["removable_params"] == 31 * 5
    assert rows["head"]["frozen_params"] == 5  # the bias; every weight has a unit
    assert rows["body"]["params"] == sum(
        rows[f"body.0.{name}"]["params"] for name in ("inner", "out")
    )
    total = sum(parameter.numel() for parameter in TwoStages().parameters())
    assert rows[""]["params"] == total


def test_restrictions_are_respected_and_reported() -> None:
    found = document(TwoStages(), 8, exclude=("tail",), max_prune=(("*", 0.5),), round_to=16)
    assert [(row["name"], row["smallest"]) for row in found["groups"]] == [
        ("stem.conv", 12), ("body.0.inner", 16), ("tail.conv", 32),
    ]  # fmt: skip
    rows = rows_by_module(found)
    assert rows["tail.conv"]["removable_params"] == 0
    held = found["stays"][rows["tail.conv"]["stays"][0]]
    assert (held["reason"], held["modules"]) == ("--exclude tail", ["tail.conv"])
    assert [row["option"] for row in found["restrictions"]] == [
        "--exclude tail", "--max-prune 0.5", "--round-to 16",
    ]  # fmt: skip
    smallest = 16 * 12 + 16 + 12 * 16 + 12
    original = 24 * 12 + 24 + 12 * 24 + 12
    assert rows["body"]["removable_params"] == original - smallest
    assert found["cost"]["params"]["smallest"] == (
        found["cost"]["params"]["original"] - (original - smallest)
    )


def test_reasons_name_the_operation_the_modules_and_the_source_line() -> None:
    found = document(Frozen(), 4)
    by_op = {row["op"]: row for row in found["stays"]}
    assert by_op["layer_norm"]["modules"] == ["norm"]
    (line,) = by_op["layer_norm"]["source_lines"]
    path, _, number = line["line"].rpartition(":")
    assert path == __file__
    assert "strange(self.norm" in Path(path).read_text().splitlines()[int(number) - 1]
    assert line["count"] == 1
    rows = rows_by_module(found)
    assert [found["stays"][index]["op"] for index in rows["body.1"]["stays"]] == ["layer_norm"]
    assert rows["body.0"]["stays"] == []


def test_equal_reasons_of_many_layers_are_one_row() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.LayerNorm(6) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    found = document(Norms(), 6)
    rows = [row for row in found["stays"] if row["op"] == "layer_norm"]
    assert len(rows) == 1
    assert rows[0]["count"] >= 4  # the last one's channels reach the output
    assert len(rows[0]["source_lines"]) == 1


class Idle(nn.Module):
    """``aux`` (two layers of 30 and 4 parameters) and ``scale.extra`` (5) are in no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 1)
        self.aux = nn.Sequential(nn.Linear(5, 5), nn.Linear(3, 1))
        self.scale = nn.Module()
        self.scale.used = nn.Parameter(torch.ones(1))
        self.scale.extra = nn.Parameter(torch.ones(5))
        self.twin = self.body
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2]."""
        return self.head(self.twin(x).mean((2, 3)) * self.scale.used)


def test_parameters_that_no_operation_reads_are_named_by_their_outermost_module() -> None:
    (unused,) = (row for row in document(Idle(), 4)["stays"] if row["op"] == NEVER_USED)
    assert unused["modules"] == ["aux", "scale.extra"]
    assert unused["params"] == 30 + 4 + 5
    assert not any(row["op"] == NEVER_USED for row in document(Frozen(), 4)["stays"])


def test_a_run_warns_of_parameters_that_are_never_used() -> None:
    progress = RecordedProgress()
    fairdeploy.inspect(Idle(), input_size=(3, 4, 4), progress=progress)
    (warning,) = (text for text in progress.warnings if "never used" in text)
    assert warning.startswith("43.3% of the parameters are never used (aux and 1 more);")


def test_unknown_operations_are_counted_with_the_lines_that_issued_them() -> None:
    (row,) = document(Frozen(), 4)["unknown_ops"]
    assert (row["op"], row["count"]) == ("strange", 1)
    path, _, number = row["source_lines"][0]["line"].rpartition(":")
    assert "strange(self.norm" in Path(path).read_text().splitlines()[int(number) - 1]


def test_random_removal_takes_about_half_within_the_limits() -> None:
    graph = build_unit_graph(TwoStages().eval(), (torch.zeros(2, 3, 8, 8),))
    rules = rules_of(
        graph, Restrictions(exclude=("stem",), max_prune=(("tail", 0.25),), round_to=4)
    )
    limits = limits_of(graph, 1, rules)
    chosen = random_removal(graph, limits, seed=0)
    assert {name: len(units) for name, units in chosen.items()} == {
        "body.0.inner": 12, "tail.conv": 8,
    }  # fmt: skip
    assert random_removal(graph, limits, seed=0) == chosen
    assert random_removal(graph, limits, seed=1) != chosen
    assert all(list(units) == sorted(set(units)) for units in chosen.values())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A state dict with a factory beside it."""
    torch.manual_seed(0)
    torch.save(TwoStages().state_dict(), tmp_path / "net.pt")
    (tmp_path / "fairdeploy.toml").write_text(
        'arch = "tests.allocation.restricted_networks:TwoStages"\ninput_size = 8\n'
        'exclude = "tail"\n'
    )
    return tmp_path / "net.pt"


def test_proof_of_a_random_removal_needs_no_data_and_brings_the_own_class_back(
    checkpoint: Path,
) -> None:
    proof = inspect(InspectOptions(model=str(checkpoint), prove=True))["proof"]
    assert proof["passed"]
    assert proof["max_relative_error"] <= 1e-5
    assert proof["batch_sizes"] == [1, 3]
    assert proof["num_removed_units"] == 12 // 2 + 24 // 2  # the project file excludes the tail
    assert proof["own_class"] == {"rebuilt": True, "problem": None}
    assert set(proof["seconds"]) == {"unit graph", "remove", "prove", "own class"}
    assert proof["nodes"] > 8


def test_without_prove_nothing_is_removed(checkpoint: Path) -> None:
    assert inspect(InspectOptions(model=str(checkpoint)))["proof"] is None


def test_glob_that_matches_nothing_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"--exclude 'tial' matches no module.*'tail'"):
        inspect(InspectOptions(model=str(checkpoint), exclude=("tial",)))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [("remove_units", "the removal fails: ValueError: broken"),
     ("prove", "the shrunk network fails: ValueError: broken")],
)  # fmt: skip
def test_removal_that_breaks_is_a_failed_proof_in_words(
    monkeypatch: pytest.MonkeyPatch, broken: str, problem: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("broken\nsecond line")

    monkeypatch.setattr(random_proof, broken, fail)
    model = loaded(TwoStages(), 8)
    graph = build_unit_graph(model.module, (torch.zeros(2, 3, 8, 8),))
    watch = Stopwatch()
    proof = prove_random_removal(model, graph, limits_of(graph, 1), 0, watch)
    assert not proof["passed"]
    assert proof["problem"] == problem
    assert proof["max_relative_error"] is None
    assert proof["own_class"] == {"rebuilt": False, "problem": "the removal is not proved"}


class Grouped(nn.Module):
    """A convolution in four groups of six channels: the same number goes from each."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 24, 1, groups=4)
        self.point = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 5]."""
        logits: Tensor = self.point(self.grouped(torch.cat([x, x, x[:, :2]], 1)).relu())
        return logits.mean((2, 3))


def test_balanced_groups_count_one_unit_of_every_block() -> None:
    model = loaded(Grouped(), 4)
    graph = build_unit_graph(model.module, (torch.zeros(2, 3, 4, 4),))
    rules = rules_of(graph, Restrictions(max_prune=(("*", 0.5),)))
    limits = limits_of(graph, 1, rules)
    found = inspection_document(model, graph, rules, limits)
    (row,) = found["groups"]
    assert (row["units"], row["blocks"], row["smallest"]) == (6, 4, 3)
    assert row["channels_per_unit"] == 4
    rows = rows_by_module(found)
    # Twelve of 24 channels may go: two weights and a bias each, and five weights that read it.
    assert rows["grouped"]["removable_params"] == 12 * (2 + 1)
    assert rows["point"]["removable_params"] == 12 * 5
    assert rows["point"]["frozen_params"] == 5
    (places,) = random_removal(graph, limits, seed=0).values()
    by_block = [{place % 6 for place in places if place // 6 == block} for block in range(4)]
    assert [len(block) for block in by_block] == [3, 3, 3, 3]
    assert len({tuple(sorted(block)) for block in by_block}) > 1
    watch = Stopwatch()
    proof = prove_random_removal(model, graph, limits, 0, watch)
    assert proof["passed"]
    assert proof["num_removed_units"] == 12
    assert proof["params_left"] == 12 * 3 + 12 * 5 + 5


def test_counts_are_multiples_of_what_was_measured_earlier_or_of_the_usual(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of 12 and the 24 units inside: 8 blocks of 1 and 2, or 2 blocks of 4 and 8."""
    options = InspectOptions(model=str(checkpoint))
    monkeypatch.setattr(rounding, "cached_multiple", lambda *_: None)
    usual = inspect(options)
    assert usual["channel_multiple"] == {
        "number": 8, "source": "not measured", "is_cached": False,
    }  # fmt: skip
    assert [row["smallest"] for row in usual["groups"]] == [1, 2, 32]
    monkeypatch.setattr(rounding, "cached_multiple", lambda *_: sixteen(is_cached=True))
    measured = inspect(options)
    assert measured["channel_multiple"] == {
        "number": 16, "source": "measured", "is_cached": True,
    }  # fmt: skip
    assert [row["smallest"] for row in measured["groups"]] == [4, 8, 32]
    asked = inspect(InspectOptions(model=str(checkpoint), round_to=3))
    assert asked["channel_multiple"]["source"] == "--round-to"
    assert [row["smallest"] for row in asked["groups"]] == [3, 3, 32]
