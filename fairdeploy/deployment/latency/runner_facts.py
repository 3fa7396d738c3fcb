"""What a runner may tell besides: the inputs that its file takes, and the runtime's versions.

Both are optional for a plug-in, and are asked through the guard of ``exporter_api``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from fairdeploy.deployment.exporter_api import GuardedRunner, Runner, guarded
from fairdeploy.records import InputSignature


@runtime_checkable
class TellsInputs(Protocol):
    """A runner that knows what its file takes."""

    @property
    def input_signature(self) -> tuple[InputSignature, ...]:
        """Names, types and sizes of the inputs, in the order of ``run``."""


@runtime_checkable
class TellsVersions(Protocol):
    """A runner that knows what it runs on."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of the runtime, and of each provider's library that tells it."""


def input_signature(runner: Runner) -> tuple[InputSignature, ...] | None:
    """What the file takes; None if its runner cannot tell."""
    inner = _inner(runner)
    with guarded("the runner failed to tell its inputs"):
        return inner.input_signature if isinstance(inner, TellsInputs) else None


def runtime_versions(runner: Runner) -> dict[str, str]:
    """Versions by name; empty if the runner cannot tell."""
    inner = _inner(runner)
    with guarded("the runner failed to tell its versions"):
        return dict(inner.versions) if isinstance(inner, TellsVersions) else {}


def _inner(runner: Runner) -> Runner:
    """Behind all guards; an exporter in another precision adds its own to the exporter's."""
    while isinstance(runner, GuardedRunner):
        runner = runner.runner
    return runner
