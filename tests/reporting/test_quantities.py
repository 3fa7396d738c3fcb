from __future__ import annotations

from fairdeploy.reporting import quantities


def spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_counts_are_whole_up_to_a_million() -> None:
    found = [spaced(quantities.count(n)) for n in (0, 855_770, 1.2e6, 25.6e6, 126e6, 4.1e9)]
    assert found == ["0", "855,770", "1.20 M", "25.6 M", "126 M", "4.10 G"]


def test_sizes_are_in_powers_of_ten() -> None:
    found = [spaced(quantities.size(n)) for n in (12, 2345, 3.42e6, 102e6, 1.5e9)]
    assert found == ["12 B", "2.35 kB", "3.42 MB", "102 MB", "1.50 GB"]


def test_milliseconds_keep_three_digits() -> None:
    found = [spaced(quantities.milliseconds(n)) for n in (0.4121, 2.0, 12.34, 1240.2)]
    assert found == ["0.412 ms", "2.00 ms", "12.3 ms", "1,240 ms"]


def test_points_carry_a_sign_unless_they_round_to_zero() -> None:
    found = [spaced(quantities.points(x)) for x in (-0.0213, 0.004, -0.0001)]
    assert found == ["\N{MINUS SIGN}2.1 points", "+0.4 points", "±0.0 points"]


def test_seconds_turn_into_minutes_when_they_are_many() -> None:
    found = [spaced(quantities.seconds(x)) for x in (0.44, 12.3, 119.2, 200.0)]
    assert found == ["0.4 s", "12 s", "119 s", "3 min 20 s"]


def test_amounts_take_the_unit_of_their_metric() -> None:
    found = [spaced(quantities.amount(m, 2e6)) for m in ("params", "macs", "size")]
    assert found == ["2.00 M", "2.00 M", "2.00 MB"]
    assert spaced(quantities.amount("latency", 4.25)) == "4.25 ms"


def test_missing_values_are_dashes_and_errors_are_called_not_a_number() -> None:
    missing = (quantities.count, quantities.size, quantities.percent, quantities.milliseconds,
               quantities.factor, quantities.seconds)  # fmt: skip
    assert {write(None) for write in missing} == {quantities.MISSING}
    assert quantities.error_text(None) == "not a number"
    assert quantities.share_of(1, 0) is None
