"""Which multiple channel counts are rounded to, and who says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fairdeploy.deployment.exporter_api import Exporter
from fairdeploy.deployment.latency.channel_multiples import cached_multiple, measured_multiple
from fairdeploy.errors import ExportError, MeasurementError
from fairdeploy.records import (
    UNMEASURED_MULTIPLE,
    MultipleChoice,
    TargetProfile,
    default_multiple,
)
from fairdeploy.runs.progress import Stopwatch

Source = Literal["measured", "profile", "--round-to", "not measured", "budget"]


@dataclass(frozen=True, slots=True)
class Multiple:
    """What channel counts are rounded to, and who says so."""

    number: int
    source: Source
    choice: MultipleChoice | None = None
    liked: int = 1
    """What the target likes, as far as it is known; ``number`` may be the user's."""
    is_strict: bool = False
    """Whether narrow layers keep to it too, as long as they have two of it."""

    @property
    def to_try(self) -> tuple[Multiple, ...]:
        """Finest last: what the user did not ask for gives way where a budget needs it."""
        if self.source == "measured" and self.number > UNMEASURED_MULTIPLE:
            usual = replace(self, number=UNMEASURED_MULTIPLE, source="budget", is_strict=False)
            return (self, usual)
        return (self, replace(self, is_strict=False)) if self.is_strict else (self,)

    @property
    def finest(self) -> Multiple:
        """The last to try."""
        return self.to_try[-1]

    def where_latency_decides(self) -> Multiple:
        """Strict: a layer of 14 channels is slower than one of 16.

        ResNet-56 with ``--blocks``, 60 % of its latency: 8 plans took up to 17 % more than the
        model said and one of 54.5 % was accepted; with strict multiples the first plan, of 59.1 %.
        """
        is_coarse = self.number > UNMEASURED_MULTIPLE  # strict anyway
        return self if self.source == "--round-to" or is_coarse else replace(self, is_strict=True)

    def __str__(self) -> str:
        """As a warning calls it."""
        return f"multiples of {self.number} channels{' in narrow layers too' * self.is_strict}"


def resolve_multiple(
    profile: TargetProfile,
    round_to: int | None,
    exporter: Exporter | None,
    cache_folder: Path,
    watch: Stopwatch,
    *,
    may_measure: bool,
) -> Multiple:
    """The user's multiple, else the profile's, which is measured where it says ``auto``.

    Args:
        profile: The target.
        round_to: What the user asked for.
        exporter: Writes and runs the files of the sweep; None: nothing is measured.
        cache_folder: Keeps sweeps.
        watch: Shows the stage.
        may_measure: Whether the time that it takes is worth it: where latency decides. Else an
            ``auto`` is the usual multiple, also where a sweep is cached: a plan that is made by
            counts must not depend on it.
    """
    own = profile.channel_multiple
    if round_to is None and own != "auto":
        return Multiple(own, "profile", liked=own)
    if round_to is not None or not may_measure or exporter is None:
        number = default_multiple(profile) if round_to is None else round_to
        source: Source = "not measured" if round_to is None else "--round-to"
        return Multiple(number, source, liked=_liked(profile, cache_folder) or number)
    with watch.stage("channel multiple") as stage:
        try:
            choice = measured_multiple(exporter, profile, cache_folder)
        except (ExportError, MeasurementError) as error:
            watch.warn(
                f"which channel counts are fast was not measured ({error}); they become "
                f"multiples of {default_multiple(profile)}"
            )
            return _of(None, profile)
        origin = "measured earlier" if choice.is_cached else "measured"
        stage.note(f"{choice.multiple} ({origin})")
    return _of(choice, profile)


def known_multiple(profile: TargetProfile, round_to: int | None, cache_folder: Path) -> Multiple:
    """What is known without measuring: the user's, the profile's, or what was measured earlier."""
    if round_to is not None:
        return Multiple(round_to, "--round-to")
    if profile.channel_multiple != "auto":
        return Multiple(profile.channel_multiple, "profile")
    return _of(cached_multiple(profile, cache_folder), profile)


def multiple_row(multiple: Multiple) -> dict[str, Any]:
    """What counts are multiples of and who says so, for a document."""
    choice = multiple.choice
    return {
        "number": multiple.number,
        "source": multiple.source,
        "is_cached": choice.is_cached if choice else False,
    }


def _liked(profile: TargetProfile, cache_folder: Path) -> int | None:
    """What the target is known to like."""
    if profile.channel_multiple != "auto":
        return profile.channel_multiple
    choice = cached_multiple(profile, cache_folder)
    return choice.multiple if choice else None


def _of(choice: MultipleChoice | None, profile: TargetProfile) -> Multiple:
    if choice is None:
        number = default_multiple(profile)
        return Multiple(number, "not measured", liked=number)
    return Multiple(choice.multiple, "measured", choice, choice.multiple)


def with_multiple(profile: TargetProfile, multiple: Multiple) -> TargetProfile:
    """The profile with a number where it said ``auto``."""
    return replace(profile, channel_multiple=multiple.liked)
