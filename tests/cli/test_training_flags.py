from __future__ import annotations

import pytest

from fairdeploy.errors import UsageError
from fairdeploy.settings.values import parse_drop


def test_a_drop_is_a_percentage_or_a_share() -> None:
    assert parse_drop("1%") == parse_drop("0.01") == 0.01
    assert parse_drop("0%") == 0.0


def test_a_drop_of_everything_is_refused_with_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"--max-drop '1' is not .* did you mean 1%\?"):
        parse_drop("1")
    with pytest.raises(UsageError, match=r"use --max-drop 1%$"):
        parse_drop("much")
