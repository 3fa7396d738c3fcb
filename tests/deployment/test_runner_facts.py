"""What a runner tells is heard through however many guards."""

from __future__ import annotations

import numpy as np

from fairdeploy.deployment.exporter_api import Runner, guarded_runner
from fairdeploy.records import InputSignature
from tests.deployment.fakes import FunctionRunner

SIGNATURE = (InputSignature("x", "float32", ("batch", 3)),)


class TellingRunner(FunctionRunner):
    input_signature = SIGNATURE
    versions = {"fake": "1.2"}  # noqa: RUF012


def test_inputs_and_versions_come_through_one_guard_and_two() -> None:
    runner: Runner = TellingRunner(np.negative)
    for _ in range(3):
        assert runner.input_signature == SIGNATURE
        assert runner.versions == {"fake": "1.2"}
        runner = guarded_runner(runner, "model.onnx")


def test_a_runner_that_tells_nothing_has_no_versions() -> None:
    runner = guarded_runner(FunctionRunner(np.negative), "model.onnx")
    assert runner.input_signature == ()
    assert runner.versions == {}
