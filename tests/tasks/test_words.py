"""What is special to a task is said by the task: no other room speaks of it."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "fairdeploy"
_SPECIAL = re.compile(r"top-?1(?!_agreement)|cross.?entropy", re.IGNORECASE)
_ROOMS = sorted({path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()})


def said(path: Path) -> Iterator[str]:
    """Names and texts of a module; keys of JSON documents may be called as they are."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type != tokenize.COMMENT and _SPECIAL.search(token.string):
            yield f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"


@pytest.mark.parametrize("room", [room for room in _ROOMS if room not in {"tasks", "runs"}])
def test_no_other_room_speaks_of_what_is_special_to_a_task(room: str) -> None:
    found = [line for path in sorted((ROOT / room).rglob("*.py")) for line in said(path)]
    assert not found
