"""What a runner tells is heard through however many guards."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fairdeploy.deployment.exporter_api import GuardedRunner, Runner
from fairdeploy.deployment.latency.runner_facts import input_signature, runtime_versions
from fairdeploy.records import InputSignature
from tests.deployment.fakes import FunctionRunner

SIGNATURE = (InputSignature("x", "float32", ("batch", 3)),)


class TellingRunner(FunctionRunner):
    input_signature = SIGNATURE
    versions: ClassVar = {"fake": "1.2"}


def test_inputs_and_versions_come_through_one_guard_and_two() -> None:
    runner: Runner = TellingRunner(np.negative)
    for _ in range(3):
        assert input_signature(runner) == SIGNATURE
        assert runtime_versions(runner) == {"fake": "1.2"}
        runner = GuardedRunner(runner, "model.onnx")


def test_a_runner_that_tells_nothing_has_no_versions() -> None:
    runner = GuardedRunner(FunctionRunner(np.negative), "model.onnx")
    assert input_signature(runner) is None
    assert runtime_versions(runner) == {}
