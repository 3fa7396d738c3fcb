from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.records import (
    AccuracyByStage,
    AccuracyEstimate,
    Budget,
    DataSplits,
    ImageSet,
    Mending,
    ParityResult,
    ProofResult,
    RunRecord,
)
from fairdeploy.reporting.document import write_report
from fairdeploy.reporting.json_tree import json_safe
from fairdeploy.reporting.quantities import budget_verdict
from tests.reporting.sample_run import (
    document_of,
    sample_arguments,
    sample_curves,
    sample_graph,
    sample_latency,
)

PROMISED_KEYS = {
    "budget": {"metric", "asked", "allowed", "original", "got", "met"},
    "groups": {"name", "units", "kept", "tod", "frozen_reason"},
    "artifacts": {"path", "format", "precision", "sha256", "size_bytes"},
    "parity": {
        "artifact", "batch", "max_relative_error", "limit", "top1_agreement", "passed",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> UnitGraph:
    return sample_graph()


@pytest.fixture(scope="module")
def document(graph: UnitGraph) -> dict[str, Any]:
    return document_of(**sample_arguments(graph))


def test_document_has_every_key_that_scripts_were_promised(document: dict[str, Any]) -> None:
    assert document["schema_version"] == 1
    for key, promised in PROMISED_KEYS.items():
        assert document[key], key
        for row in document[key]:
            assert promised <= row.keys(), key
    for network in ("original", "shrunk"):
        assert {"params", "macs", "size_bytes"} <= document["model"][network].keys()
    assert {"max_relative_error", "limit", "passed"} <= document["proof"].keys()
    assert {"original", "pruned", "recovered", "distilled", "tuned", "exported", "num_images"} == (
        document["accuracy"].keys()
    )
    assert {
        "target", "original_median_ms", "shrunk_median_ms",
        "speedup", "speedup_low", "speedup_high",
    } <= document["latency"].keys()  # fmt: skip
    assert {"tolerance", "environment", "seed", "command"} <= document.keys()


def test_document_holds_the_numbers_of_the_run(document: dict[str, Any], graph: UnitGraph) -> None:
    assert document["model"]["original"] == {"params": 1000, "macs": 50_000, "size_bytes": 4000}
    assert document["accuracy"]["recovered"] == {"value": 0.88, "low": 0.86, "high": 0.895}
    assert document["accuracy"]["num_images"] == 800
    assert document["latency"]["num_pairs"] == 200
    assert document["latency"]["original_median_ms"] == pytest.approx(2.0, rel=0.02)
    assert document["latency"]["idle_gap"]["shrunk"]["median_ms"] == 2.5
    assert document["latency"]["device"]["max_clock_mhz"] == 1800.0
    assert document["command"] == "fairdeploy shrink 'my model.pt' --budget 40%"
    assert document["data"]["num_calibration_classes"] == 4
    assert document["environment"] == sample_arguments(graph)["environment"]


def test_budget_row_says_what_was_allowed_and_whether_it_is_met(graph: UnitGraph) -> None:
    budgets = (Budget("params", "40%", fraction=0.4), Budget("macs", "20k", absolute=20_000.0))
    rows = document_of(**sample_arguments(graph, budgets=budgets))["budget"]
    assert rows[0] == {
        "metric": "params", "asked": "40%", "allowed": 400.0, "original": 1000.0, "got": 398.0,
        "met": True,
    }  # fmt: skip
    assert (rows[1]["allowed"], rows[1]["got"], rows[1]["met"]) == (20_000.0, 21_000.0, False)


def test_a_race_on_too_busy_a_machine_meets_no_latency_budget(graph: UnitGraph) -> None:
    budget = Budget("latency", "latency=90%", fraction=0.9)
    calm = sample_latency()
    busy = replace(calm, is_too_busy=True)
    shown = []
    for latency in (calm, busy):
        arguments = sample_arguments(graph, budgets=(budget,), latency=latency)
        (row,) = document_of(**arguments)["budget"]
        assert row["got"] <= row["allowed"]
        shown.append((row["met"], budget_verdict(row)))
    assert shown == [(True, "met"), (False, "not shown to be met: the machine was too busy")]


def test_group_rows_list_removable_groups_first_and_frozen_ones_with_a_reason(
    document: dict[str, Any], graph: UnitGraph
) -> None:
    removable = document["groups"][: len(graph.groups)]
    frozen = document["groups"][len(graph.groups) :]
    assert [row["name"] for row in removable] == [group.name for group in graph.groups]
    assert all(row["kept"] == row["units"] - row["units"] // 2 for row in removable)
    assert all(row["prefix_length"] == row["units"] // 2 + 1 for row in removable)
    assert all(row["frozen_reason"] is None for row in removable)
    assert "head" in {row["name"] for row in frozen}
    assert all(row["frozen_reason"] and row["tod"] is None for row in frozen)


def test_group_row_takes_tod_at_the_depth_that_the_tolerance_allowed(
    document: dict[str, Any], graph: UnitGraph
) -> None:
    curves = sample_curves(graph)
    for row in document["groups"][: len(graph.groups)]:
        assert row["tod"] == curves[row["name"]][row["units"] // 2 - 1]


def test_exchange_against_uniform_pruning_is_in_the_document(document: dict[str, Any]) -> None:
    exchange = document["exchange"]
    assert exchange["uniform_fraction"] == 0.5
    assert exchange["r_mass_uniform_minus_tod"] > 0
    num_groups = len(document["groups"]) - sum(
        row["frozen_reason"] is not None for row in document["groups"]
    )
    assert exchange["r_mass_removed"] == pytest.approx(1.0 * num_groups)
    assert exchange["r_mass_bound"] == pytest.approx(1.6 * num_groups)
    assert exchange["r_mass_uniform"] == pytest.approx(1.8 * num_groups)


def test_numbers_that_json_does_not_know_become_null(graph: UnitGraph) -> None:
    arguments = sample_arguments(
        graph,
        proof=ProofResult(math.inf, 1e-5, 1, (2,)),
        parity=(ParityResult("model.onnx", 1, math.nan, 1e-4, 0.5),),
    )
    document = document_of(**arguments)
    assert document["proof"]["max_relative_error"] is None
    assert document["proof"]["passed"] is False
    assert document["parity"][0]["max_relative_error"] is None
    assert document["parity"][0]["passed"] is False
    json.dumps(document, allow_nan=False)


def test_json_safe_turns_arrays_tuples_and_paths_into_plain_json() -> None:
    value = {"a": np.array([1.0, np.nan]), 2: (np.int64(3), Path("x")), "b": np.bool_(True)}
    assert json_safe(value) == {"a": [1.0, None], "2": [3, "x"], "b": True}


def test_document_without_measurements_says_so_with_nulls(graph: UnitGraph) -> None:
    images = ImageSet(torch.zeros(4, 3, 8, 8), None, "none", is_synthetic=True)
    arguments = sample_arguments(
        graph, accuracy=AccuracyByStage(), latency=None, mending=Mending(),
        data=DataSplits(images, None, None, "synthetic", "00"),
    )  # fmt: skip
    document = document_of(**arguments)
    assert document["accuracy"] == {
        "original": None, "pruned": None, "recovered": None, "distilled": None, "tuned": None,
        "exported": None, "num_images": 0,
    }  # fmt: skip
    assert document["latency"] is None
    assert document["recovery"] is None
    assert document["data"]["num_test"] == 0
    assert document["data"]["num_calibration_classes"] is None


def test_accuracy_counts_images_of_the_stages_that_were_measured(graph: UnitGraph) -> None:
    accuracy = AccuracyByStage(recovered=AccuracyEstimate(0.5, 0.4, 0.6, 90))
    document = document_of(**sample_arguments(graph, accuracy=accuracy))
    assert document["accuracy"]["original"] is None
    assert document["accuracy"]["num_images"] == 90


def test_repeated_warnings_are_told_once(graph: UnitGraph) -> None:
    document = document_of(**sample_arguments(graph, warnings=("one", "two", "one")))
    assert document["warnings"] == ["one", "two"]


def test_report_files_are_written_and_the_json_reads_back_equal(
    tmp_path: Path, graph: UnitGraph, document: dict[str, Any]
) -> None:
    arguments = sample_arguments(graph)
    write_report(tmp_path, RunRecord(document, sample_curves(graph), arguments["latency"]))
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == document
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
