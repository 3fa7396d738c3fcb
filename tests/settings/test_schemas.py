"""The printed schemas say of each key what its reader takes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from fairdeploy.cli import app as cli
from fairdeploy.records import TargetProfile
from fairdeploy.settings.project_file import ProjectFile


def printed(kind: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.run(["schema", kind]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["additionalProperties"] is False
    return document


def test_the_project_s_schema_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    document = printed("project", capsys)
    keys = document["properties"]
    assert list(keys) == [field.name for field in fields(ProjectFile)]
    assert document["required"] == []
    assert all(key.pop("description") for key in keys.values())
    assert keys["smallest"] == {"enum": ["params", "macs", "size"], "default": "params"}
    assert keys["learning_rate"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1.0}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    assert keys["max_prune"] == {
        "anyOf": [share, {"type": "object", "additionalProperties": share}]
    }


def test_the_profile_s_schema_asks_for_what_a_profile_must_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = printed("profile", capsys)
    known = {field.name for field in fields(TargetProfile)} - {"name"}
    assert set(document["properties"]) == known
    assert "runtime" in document["required"]
    assert "affinity" not in document["required"]
    assert document["properties"]["precision"]["enum"] == ["fp32", "fp16", "bf16", "int8"]
