from __future__ import annotations

import pytest

from fairdeploy.errors import UsageError
from fairdeploy.records import Budget
from fairdeploy.settings.budgets import latency_apart, parse_budgets


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("40%", Budget("params", "params=40%", fraction=0.4)),
        (" 40 % ", Budget("params", "params=40%", fraction=0.4)),
        ("12.5%", Budget("params", "params=12.5%", fraction=0.125)),
        ("params=40%", Budget("params", "params=40%", fraction=0.4)),
        ("MACs=50%", Budget("macs", "macs=50%", fraction=0.5)),
        ("size = 30%", Budget("size", "size=30%", fraction=0.3)),
        ("params=1.2M", Budget("params", "params=1.2M", absolute=1.2e6)),
        ("params=250000", Budget("params", "params=250000", absolute=250000)),
        ("params=2.5e5", Budget("params", "params=2.5e5", absolute=2.5e5)),
        ("macs=300M", Budget("macs", "macs=300M", absolute=3e8)),
        ("macs=1.5g", Budget("macs", "macs=1.5g", absolute=1.5e9)),
        ("size=4MB", Budget("size", "size=4MB", absolute=4e6)),
        ("size=4 MiB", Budget("size", "size=4MiB", absolute=4 * 2**20)),
        ("size=500kB", Budget("size", "size=500kB", absolute=5e5)),
        ("latency=5ms", Budget("latency", "latency=5ms", absolute=5.0)),
        ("latency=60%", Budget("latency", "latency=60%", fraction=0.6)),
        ("latency=800us", Budget("latency", "latency=800us", absolute=0.8)),
    ],
)
def test_budget_is_read_as_typed(text: str, budget: Budget) -> None:
    (parsed,) = parse_budgets([text])
    assert parsed.metric == budget.metric
    assert parsed.text == budget.text
    assert parsed.fraction == pytest.approx(budget.fraction)
    assert parsed.absolute == pytest.approx(budget.absolute)


def test_list_and_repeats_are_the_same() -> None:
    assert parse_budgets(["40%,macs=50%"]) == parse_budgets(["params=40%", "macs=50%"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0%", "budget '0%' is not above zero; use for example 40%"),
        ("-3%", "budget '-3%' is not above zero"),
        ("150%", "budget 'params=150%' leaves the network as it is; a budget is a share"),
        ("100%", "budget 'params=100%' leaves the network as it is"),
        ("-5ms", "budget '-5ms' is not above zero; use for example 40%"),
        ("latency=-5ms", "budget 'latency=-5ms' is not above zero"),
        ("40 bananas", "budget '40 bananas' has unit 'bananas'; use for example 40%"),
        ("abc", "budget 'abc' is not an amount; use for example 40%"),
        ("nan%", "budget 'nan%' is not an amount"),
        ("params=nan", "budget 'params=nan' is not an amount"),
        ("params=inf", "budget 'params=inf' is not an amount"),
        ("params=1e999", "budget 'params=1e999' is not finite; use for example 40%"),
        ("params=", "budget 'params=' is not an amount"),
        ("40", "budget '40' has no unit; did you mean '40%'?"),
        ("params=40", "budget 'params=40' has no unit; did you mean 'params=40%'?"),
        ("params=0.4", "budget 'params=0.4' has no unit; did you mean 'params=40%'?"),
        ("4MB", "budget '4MB' does not say what it limits; write size=4MB"),
        ("1.2M", "budget '1.2M' does not say what it limits; write params=1.2M or macs=1.2M"),
        ("size=4", "budget 'size=4' has no unit; write for example size=4MB or size=40%"),
        ("macs=5ms", "budget 'macs=5ms' has unit 'ms'; write for example macs=300M or macs=40%"),
        ("speed=2", "no metric 'speed' in budget 'speed=2'; use params, macs, size or latency"),
        ("flops=50%", "budget 'flops=50%': write macs instead of flops (1 MAC = 2 FLOPs)"),
    ],
)
def test_impossible_budget_says_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budgets([text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_budgets_for_one_metric_are_refused() -> None:
    with pytest.raises(UsageError, match="two budgets for params: 'params=40%' and 'params=1M'"):
        parse_budgets(["40%", "params=1M"])


@pytest.mark.parametrize("texts", [[], [""], [" , "]])
def test_no_budget_is_refused_with_an_example(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="no budget given; use for example --budget 40%"):
        parse_budgets(texts)


def test_latency_is_set_apart_from_what_counts_decide() -> None:
    counted, latency = latency_apart(parse_budgets(["40%", "latency=5ms", "size=4MB"]))
    assert [budget.metric for budget in counted] == ["params", "size"]
    assert latency is not None
    assert latency.absolute == 5.0
    assert latency_apart(parse_budgets(["macs=2M"]))[1] is None
