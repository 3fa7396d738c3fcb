"""What exported files take, and inputs made up for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fairdeploy.deployment.exporter_api import Exporter, get_exporter
from fairdeploy.errors import ExportError, UsageError
from fairdeploy.inputs.made_up_inputs import fixed_batch
from fairdeploy.records import InputSignature, TargetProfile
from fairdeploy.settings.target_profiles import load_profile

_LOOKING = "cpu"
"""The profile for looking at a file that another machine shall measure."""


def common_signature(
    files: Sequence[Path], profile: TargetProfile, *, is_elsewhere: bool
) -> tuple[InputSignature, ...]:
    """What all files take.

    Args:
        is_elsewhere: Whether another machine shall measure; then this one only looks, on its CPU.

    Raises:
        UsageError: They take different inputs.
        ExportError: A file cannot be opened, or the exporter cannot tell what it takes.
    """
    if is_elsewhere:
        profile = replace(load_profile(_LOOKING), runtime=profile.runtime)
    exporter = get_exporter(profile.runtime)
    signatures = [_signature(path, exporter, profile) for path in files]
    first, last = (_terms(signature) for signature in (signatures[0], signatures[-1]))
    if first != last:
        raise UsageError(
            f"'{files[0].name}' takes {_text(signatures[0])} and '{files[-1].name}' takes "
            f"{_text(signatures[-1])}; give two files that take the same inputs"
        )
    return signatures[0]


def batches_of(
    signature: Sequence[InputSignature], asked: Sequence[int], usual: int
) -> tuple[int, ...]:
    """The batches that were asked for, else the only one that the file takes, else the usual one.

    Raises:
        UsageError: The file takes another batch.
    """
    only = fixed_batch(signature)
    wrong = [batch for batch in asked if only not in (None, batch)]
    if wrong:
        raise UsageError(f"batch {wrong[0]} does not fit: the file takes {only} at a time, always")
    return tuple(asked) or (only or usual,)


def _signature(
    path: Path, exporter: Exporter, profile: TargetProfile
) -> tuple[InputSignature, ...]:
    runner = exporter.open(path, profile)
    try:
        signature = runner.input_signature
    finally:
        runner.close()
    if not signature:
        raise ExportError(f"'{path.name}' does not tell what inputs it takes, so none can be made")
    return signature


def _terms(signature: Sequence[InputSignature]) -> list[tuple[str, tuple[int | None, ...]]]:
    """Types and fixed sizes; names may differ, since inputs go by their order."""
    return [
        (one.dtype, tuple(size if isinstance(size, int) else None for size in one.sizes))
        for one in signature
    ]


def _text(signature: Sequence[InputSignature]) -> str:
    """``input float32 [batch, 3, 224, 224]``."""
    return ", ".join(
        f"{one.name} {one.dtype} [{', '.join(str(size or '?') for size in one.sizes)}]"
        for one in signature
    )
