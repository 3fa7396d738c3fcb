"""Operators are joined by node, losses sum to what the network is slower than its MACs promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairdeploy.deployment.latency.obstacles import Conditions, cause_of, obstacles_of
from fairdeploy.deployment.latency.operator_comparison import compare_operators, promised_speedup
from fairdeploy.graph.layer_facts import LayerFacts
from fairdeploy.records import OperatorRow, OperatorTime


def facts(node: str, macs=(100.0, 50.0), **changes) -> LayerFacts:
    """A convolution that lost half of its MACs and shrank from 32 to 16 channels."""
    given = LayerFacts(node, f"body.{node}", "conv2d", macs, (2.0, 1.0), (32, 16), groups=(0,))
    return replace(given, **changes)


def norm(node: str, elements=(1000.0, 800.0)) -> LayerFacts:
    return LayerFacts(node, f"body.{node}", "layer_norm", (0.0, 0.0), elements, (0, 0))


def time(node: str, ms: float, op_type: str = "Conv") -> OperatorTime:
    return OperatorTime(f"{node}_{op_type}", op_type, node, ms, (1, 16, 8, 8))


def row(original_ms: float, shrunk_ms: float, **changes) -> OperatorRow:
    return replace(OperatorRow("a", "body.a", "conv2d", original_ms, shrunk_ms), **changes)


def known(*nodes: LayerFacts) -> dict[str, LayerFacts]:
    return {node.node: node for node in nodes}


def test_operators_are_joined_by_node_however_the_runtime_fused_them() -> None:
    found = compare_operators(
        [time("a", 4.0), time("n", 1.0, "LayerNormalization"), time("a", 0.5, "ReorderInput")],
        [time("a", 1.5, "FusedConv"), time("a", 0.5, "Relu"), time("n", 0.9, "Skip")],
        known(facts("a"), norm("n")),
        Conditions(),
        num_runs=9,
    )
    rows = [(r.node, r.op, r.original_ms, r.shrunk_ms, r.num_runs) for r in found.operators]
    assert rows == [
        ("a", "conv2d", 4.0, 2.0, 2),
        ("a", "reformatting", 0.5, 0.0, 0),
        ("n", "layer_norm", 1.0, 0.9, 1),
    ]
    assert (found.original_ms, found.shrunk_ms, found.num_runs) == (5.5, 2.9, 9)


def test_losses_sum_to_what_the_network_is_slower_than_promised() -> None:
    found = compare_operators(
        [time("a", 4.0), time("n", 1.0, "Norm"), time("", 0.2, "Shape")],
        [time("a", 2.5), time("n", 0.9, "Norm"), time("", 0.3, "Shape")],
        known(facts("a"), norm("n")),
        Conditions(),
        num_runs=1,
    )
    assert found.promised_speedup == 2.0
    assert [round(r.lost_ms, 9) for r in found.operators] == [0.5, 0.4, 0.2]
    # 3.7 ms measured, 5.2 / 2 promised
    assert sum(r.lost_ms for r in found.operators) == pytest.approx(3.7 - 2.6)


def test_the_promise_is_the_ratio_of_macs_and_1_without_any() -> None:
    assert promised_speedup([facts("a", (300.0, 100.0)), facts("b", (100.0, 100.0))]) == 2.0
    assert promised_speedup([norm("n")]) == 1.0
    assert promised_speedup([facts("a", (5.0, 0.0))]) == 1.0


def test_modules_hold_all_that_lies_inside_them() -> None:
    found = compare_operators(
        [time("a", 4.0), time("b", 2.0)],
        [time("a", 2.0), time("b", 1.5)],
        known(facts("a"), facts("b", module="body.deep.b")),
        Conditions(),
        num_runs=1,
    )
    assert [(m.module, m.original_ms, m.shrunk_ms) for m in found.modules] == [
        ("body", 6.0, 3.5), ("body.a", 4.0, 2.0), ("body.deep", 2.0, 1.5), ("body.deep.b", 2.0, 1.5)
    ]  # fmt: skip


def test_a_transpose_of_the_runtime_is_reformatting_and_one_of_the_user_is_not() -> None:
    own = LayerFacts("p", "body.p", "permute", (0.0, 0.0), (10.0, 10.0), (0, 0))
    found = compare_operators(
        [],
        [time("p", 0.5, "Transpose"), time("a", 0.4, "Transpose"), time("a", 1.0)],
        known(own, facts("a")),
        Conditions(),
        num_runs=1,
    )
    assert [(r.node, r.op, r.cause) for r in found.operators if r.op != "conv2d"] == [
        ("p", "permute", "memory-bound"), ("a", "reformatting", "reformatting")
    ]  # fmt: skip


BUSY = {"elements": (2.0, 1.0)}
"""50 MACs for each number: not bound by memory."""


@pytest.mark.parametrize(
    ("measured", "layer", "conditions", "cause", "detail"),
    [
        (row(0.02, 0.019, num_runs=2), facts("a"), Conditions(), "launch-bound", "than 10 µs each"),
        (row(1, 0.9), norm("n"), Conditions(), "memory-bound", "reads and writes 80% of what"),
        (
            row(4, 3), facts("a", channels=(32, 20)), Conditions(16),
            "misaligned", "20 channels, no multiple of 16",
        ),
        (
            row(4, 3), facts("a", channels=(32, 32), inputs=(32, 30)), Conditions(4),
            "misaligned", "30 channels, no multiple of 4",
        ),
        (
            row(4, 3), facts("a", channels=(32, 16)), Conditions(16),
            "unexplained", "its MACs fell 2 times, its time 1.3 times",
        ),
        (
            row(4, 2.1), facts("a", channels=(32, 20)), Conditions(16), None, "",
        ),
        (
            row(4, 4), facts("a", (100.0, 99.0), groups=(), frozen_reason="softmax: mixes"),
            Conditions(), "frozen", "softmax: mixes",
        ),
        (
            row(4, 4), facts("a", (100.0, 100.0), groups=()),
            Conditions(), "frozen", "tied to inputs, outputs or operators that need all of it",
        ),
        (
            row(4, 4), facts("a", (100.0, 100.0), groups=(3,)),
            Conditions(held={3: "--exclude body"}), "frozen", "kept whole by --exclude body",
        ),
        (
            row(4, 4), facts("a", (100.0, 100.0), groups=(3, 4)),
            Conditions(held={3: "--exclude body"}), "kept", "the plan left all of the MACs here",
        ),
        (
            row(4, 3), facts("a", (100.0, 75.0), is_depthwise=True),
            Conditions(), "depthwise", "one kernel a channel",
        ),
        (
            row(4, 4), facts("a", (100.0, 100.0), is_depthwise=True, channels=(32, 32)),
            Conditions(), "kept", "all of the MACs",
        ),
        (row(4, 3), facts("a", (100.0, 70.0)), Conditions(), "kept", "left 70% of the MACs here"),
        (
            row(4, 3), facts("a", elements=(8.0, 5.0)),
            Conditions(), "memory-bound", "only 10 MACs for each number read or written",
        ),
        (row(4, 3), facts("a"), Conditions(), "unexplained", "fell 2 times, its time 1.3 times"),
        (
            row(4, 3), facts("a"), Conditions(knows_starts_only=True),
            "launch-bound", "how long the host takes to start it",
        ),
        (row(0, 0.3), None, Conditions(), "reformatting", "the layout that the next one wants"),
    ],
)  # fmt: skip
def test_the_first_cause_that_holds_is_given_with_its_numbers(
    measured: OperatorRow,
    layer: LayerFacts | None,
    conditions: Conditions,
    cause: str | None,
    detail: str,
) -> None:
    found, why = cause_of(measured, layer, promised=2.0, conditions=conditions)
    assert found == cause
    assert detail in why


def test_alike_operators_are_one_obstacle_and_the_largest_loss_comes_first() -> None:
    def lost(node: str, cause, ms: float, detail: str) -> OperatorRow:
        return row(2.0, 1.0 + ms, node=node, module=node, lost_ms=ms, cause=cause, detail=detail)

    rows = [
        lost("a", "kept", 0.1, "the plan left 80% of the MACs here"),
        lost("b", "frozen", 0.9, "softmax"),
        lost("c", "kept", 0.3, "the plan left 90% of the MACs here"),
        lost("d", "depthwise", 0.01, "too little to tell of"),
        row(5.0, 1.0, lost_ms=-1.5),
    ]
    frozen, kept = obstacles_of(rows, shrunk_ms=10.0)
    assert (frozen.cause, frozen.modules, frozen.lost_ms) == ("frozen", ("b",), 0.9)
    assert frozen.text == "conv2d in b: 1.9 of 10 ms (19%), before 2 ms; frozen: softmax"
    assert kept.modules == ("c", "a")
    assert kept.text == (
        "conv2d in c, a: 2.4 of 10 ms (24%), before 4 ms; kept; in c: the plan left 90% of the "
        "MACs here"
    )


def test_many_modules_are_named_by_three() -> None:
    rows = [row(1.0, 2.0, module=m, lost_ms=1.0, cause="frozen", detail="x") for m in "abcde"]
    assert obstacles_of(rows, 10.0)[0].text.startswith("conv2d in a, b, c and 2 more: 10 of 10 ms")
