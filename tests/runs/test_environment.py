from __future__ import annotations

import platform
from importlib import metadata

from fairdeploy.runs.environment import describe_environment


def test_environment_names_machine_and_versions() -> None:
    found = describe_environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["cores"] >= 1
    assert found["cpu"]
