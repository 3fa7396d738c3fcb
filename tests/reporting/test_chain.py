"""The chain has a row for each comparison, and one verdict; page and card show the same."""

from __future__ import annotations

from typing import Any

import pytest

from fairdeploy.records import (
    AccuracyByStage,
    AccuracyEstimate,
    Artifact,
    Divergence,
    Tolerance,
    VariantCheck,
)
from fairdeploy.records.accuracy import STEPS
from fairdeploy.reporting.chain import chain_of, merged_variants, variant_document, verdict
from fairdeploy.reporting.json_tree import json_safe
from fairdeploy.reporting.model_card import model_card
from fairdeploy.reporting.page.report import part, with_chain
from tests.reporting.sample_run import document_of, sample_arguments, sample_graph

GOOD = VariantCheck(
    artifact=Artifact("model-fp16.onnx", "onnx", "fp16", "cd" * 32, 1200),
    tolerance=Tolerance(1e-2, 0.99), max_relative_error=2e-3, top1_agreement=1.0, accuracy=None,
    accuracy_drop=None, max_drop=0.01, num_images=50,
)  # fmt: skip
BAD = VariantCheck(
    artifact=Artifact("model-int8.onnx", "onnx", "int8", "ef" * 32, 700),
    tolerance=Tolerance(0.5, 0.94), max_relative_error=float("inf"), top1_agreement=0.5,
    accuracy=None, accuracy_drop=None, max_drop=0.01, num_images=50,
    divergence=Divergence("node_Conv_3", "Conv", "layer1_conv1", 0.7),
)  # fmt: skip
ELSEWHERE = VariantCheck(
    artifact=Artifact("model.plan", "tensorrt", "fp16", "aa" * 32, 900),
    tolerance=Tolerance(1e-2, 0.99), max_relative_error=None, top1_agreement=None, accuracy=None,
    accuracy_drop=None, max_drop=0.01, num_images=0, not_run_because="no GPU",
)  # fmt: skip


def document(*checks: VariantCheck) -> dict[str, Any]:
    made = document_of(**sample_arguments(sample_graph()))
    made["variants"] = [variant_document(check) | {"images": "50"} for check in checks]
    made["chain"] = chain_of(made)
    safe = json_safe(made)
    assert isinstance(safe, dict)
    return safe


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ((), "passed: every step of 2 holds"),
        ((GOOD,), "passed: every step of 3 holds"),
        ((GOOD, ELSEWHERE), "passed: every step of 3 holds; 1 not run on this machine"),
        ((GOOD, BAD), "FAILED: model-int8.onnx"),
    ],
)
def test_one_verdict_stands_for_all_rows(checks: tuple[VariantCheck, ...], expected: str) -> None:
    assert verdict(document(*checks)["chain"]) == expected


def test_a_failed_row_says_which_limits_broke_and_where_first() -> None:
    row = document(BAD)["chain"]["rows"][-1]
    assert row["passed"] is False
    assert row["error"] is None
    assert row["note"].startswith(
        "relative error inf, limit 5e-01; same answers for 50.0%, limit 94%; "
        "first at Conv 'layer1_conv1'"
    )


def test_the_onnx_row_takes_the_worst_of_its_batches() -> None:
    row = document()["chain"]["rows"][1]
    assert (row["file"], row["error"], row["limit"]) == ("model.onnx", 2e-6, 1e-4)
    assert row["passed"] is True


def test_a_file_that_is_written_again_replaces_its_row() -> None:
    before = document(GOOD, BAD)
    rows = merged_variants(before, [variant_document(GOOD)])
    assert [row["artifact"]["path"] for row in rows] == ["model-int8.onnx", "model-fp16.onnx"]


def test_a_page_is_redrawn_in_place_or_given_its_chain() -> None:
    page = "<main>a<!--chain-->earlier<!--/chain-->b</main>"
    drawn = with_chain(page, document(BAD))
    assert drawn.startswith("<main>a<!--chain-->")
    assert drawn.endswith("<!--/chain-->b</main>")
    assert "earlier" not in drawn
    assert "✗ FAILED: model-int8.onnx" in drawn
    assert with_chain("<main>a</main>", document()).startswith("<main>a<!--chain-->")


def test_the_card_has_speed_device_and_every_file() -> None:
    card = model_card(document(GOOD, ELSEWHERE))
    latency = document()["latency"]
    assert f"{latency['speedup']:.2f}\N{MULTIPLICATION SIGN} as fast as the original" in card
    assert "| `model-fp16.onnx` | fp16 | 1.20" in card
    assert "not run: not run: no GPU" not in card
    assert "no GPU" in card


def test_the_card_has_the_accuracy_after_every_step() -> None:
    graph = sample_graph()
    arguments = sample_arguments(graph)
    estimates = {
        step: AccuracyEstimate(value, value - 0.02, value + 0.02, 800)
        for step, value in zip(STEPS, (0.91, 0.42, 0.83, 0.84, 0.85, 0.86), strict=True)
    }
    card = model_card(document_of(**arguments | {"accuracy": AccuracyByStage(**estimates)}))
    spaced = card.replace("\N{NO-BREAK SPACE}", " ")
    for step, words in STEPS.items():
        assert f"- {words}: {estimates[step].value:.1%}".replace("%", " %") in spaced


def test_page_and_card_speak_of_top_1_only_where_something_has_classes() -> None:
    document = document_of(**sample_arguments(sample_graph()))
    assert "same top-1" in part("Chain", doc=document)
    assert "same top-1" in model_card(document)
    assert "Top-1 is" in part("Files", doc=document)
    for row in (*document["chain"]["rows"], *document["parity"]):
        row["top1_agreement"] = None
    pages = (part("Chain", doc=document), part("Files", doc=document), model_card(document))
    assert not any("top-1" in page.lower() for page in pages)
