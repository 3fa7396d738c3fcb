"""Plans keep what the network takes, and read plans that did not know of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairdeploy.errors import PlanError
from fairdeploy.records.input_specs import parse_inputs
from fairdeploy.surgery.plan import Plan, read_plan

TEXTS = ("image:3,H=192-320/32,W=192-320/32", "tokens:77:int64:49408", "mask:1,H,W:bool")
PLAN = Plan(
    model_name="net",
    model_sha256="0" * 64,
    input_shape=(3, 224, 224),
    tolerance=0.5,
    attention="heads",
    group_sizes={"a": 4},
    removed={"a": (1,)},
    inputs=parse_inputs(TEXTS),
    fixed_batch=4,
)


def test_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    assert read_plan(path) == PLAN
    assert PLAN.is_input_named


def test_plan_without_inputs_is_of_one_image(tmp_path: Path) -> None:
    document = json.loads(PLAN.to_json())
    del document["inputs"], document["fixed_batch"]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    plan = read_plan(tmp_path / "plan.json")
    assert plan.inputs == ()
    assert plan.fixed_batch is None
    assert not plan.is_input_named


@pytest.mark.parametrize(
    ("key", "value"), [("inputs", ["image"]), ("inputs", 5), ("fixed_batch", "x"),
                       ("input_shape", [3, 0])],
)  # fmt: skip
def test_plan_with_damaged_inputs_is_refused(tmp_path: Path, key: str, value: object) -> None:
    document = json.loads(PLAN.to_json()) | {key: value}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="is not a plan"):
        read_plan(tmp_path / "plan.json")
