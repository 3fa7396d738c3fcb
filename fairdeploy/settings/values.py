"""Option values that need reading: ``--input-size 3,224,224``, ``--max-prune 'layer4.*=0.3'``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from fairdeploy.errors import UsageError
from fairdeploy.records.deployment import HostOptions

InputShape = int | tuple[int, int, int]
"""Height = width, or [C, H, W]."""

_CHANNELS_HEIGHT_WIDTH = 3
EVERY_MODULE = "*"
_WHOLE = 100.0


def parse_input_shape(_: str, text: str) -> InputShape:
    """``32`` as 32, ``3,224,224`` as a tuple.

    Raises:
        UsageError: Anything else.
    """
    parts = text.lower().replace("x", ",").split(",")
    if all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        sizes = [int(part) for part in parts]
        if len(sizes) == 1:
            return sizes[0]
        if len(sizes) == _CHANNELS_HEIGHT_WIDTH:
            return (sizes[0], sizes[1], sizes[2])
    raise UsageError(
        f"--input-size '{text}' is not a size; use --input-size 224 or --input-size 3,224,224"
    )


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """``0.5,0.5,0.5`` as a tuple.

    Raises:
        UsageError: A part is not a finite number.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise UsageError(f"{option} '{text}' is not a list of numbers; use {option} 0.5,0.5,0.5")
    return numbers


def parse_whole_numbers(option: str, text: str | None, *, minimum: int) -> tuple[int, ...]:
    """``1,4,16`` as a tuple without repeats; empty for None.

    Raises:
        UsageError: A part is not a whole number from ``minimum``.
    """
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() and int(part) >= minimum for part in parts):
        raise UsageError(
            f"{option} '{text}' is not a list of whole numbers from {minimum}; use {option} 1,4"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_sizes(texts: Sequence[str] | None) -> dict[str, int]:
    """``H=224`` of ``--size`` as names and sizes.

    Raises:
        UsageError: Not a name and a whole number from 1.
    """
    pairs = [(text, *_split(text)) for text in texts or ()]
    for text, name, size in pairs:
        if name == EVERY_MODULE or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--size '{text}' is not a name and a number; use --size H=224")
    return {name: int(size) for _, name, size in pairs}


def parse_shares(_: str, texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``0.7``, ``70%`` and ``layer4.*=0.3`` of ``--max-prune`` as globs and shares.

    Raises:
        UsageError: A share is not between 0 and 1.
    """
    return tuple((glob, _share(number, text)) for text in texts for glob, number in [_split(text)])


def parse_counts(_: str, texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """``8`` and ``layer4.*=16`` of ``--min-units`` as globs and counts.

    Raises:
        UsageError: A count is not a whole number from 1.
    """
    return tuple((glob, _count(number, text)) for text in texts for glob, number in [_split(text)])


def parse_percents(option: str, text: str) -> tuple[float, ...]:
    """``70%,50%`` as (70, 50).

    Raises:
        UsageError: A part is not a percentage above 0 and below 100.
    """
    return tuple(_percent(option, part.strip()) for part in text.split(","))


def parse_drop(text: str) -> float:
    """``1%`` and ``0.01`` of ``--max-drop`` as a share.

    Raises:
        UsageError: Not a share from 0 and below 1.
    """
    try:
        drop = float(text.strip().removesuffix("%")) / (_WHOLE if text.strip().endswith("%") else 1)
    except ValueError:
        drop = math.nan
    if 0 <= drop < 1:
        return drop
    hint = f"did you mean {text}%? " if 1 <= drop < _WHOLE and "%" not in text else ""
    raise UsageError(
        f"--max-drop '{text}' is not a share of all images below 100%; {hint}use --max-drop 1%"
    )


def _percent(option: str, part: str) -> float:
    try:
        percent = float(part.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if part.endswith("%") and 0 < percent < _WHOLE:
        return percent
    share = percent * _WHOLE if 0 < percent < 1 else percent
    hint = f"did you mean {share:g}%? " if 0 < share < _WHOLE else ""
    if part.endswith("%") and percent >= _WHOLE:
        hint = "the original is measured anyway; "
    raise UsageError(
        f"{option} '{part}' is not a percentage above 0% and below 100%; {hint}"
        f"use {option} 90%,70%,50%,30%"
    )


def _split(text: str) -> tuple[str, str]:
    """The glob before the last equals sign, and the value."""
    glob, _, value = text.rpartition("=")
    return glob.strip() or EVERY_MODULE, value.strip()


def _share(number: str, text: str) -> float:
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if 0 <= share <= 1:
        return share
    hint = f"did you mean {number}%? " if 1 < share <= 100 and "%" not in number else ""
    raise UsageError(
        f"--max-prune '{text}' is not a share from 0 to 1; {hint}use --max-prune 0.7 (of the units "
        "of every group may go) or --max-prune 'layer4.*=0.3'"
    )


def _count(number: str, text: str) -> int:
    if number.isdecimal() and int(number) > 0:
        return int(number)
    raise UsageError(
        f"--min-units '{text}' is not a whole number from 1; use --min-units 8 or "
        "--min-units 'layer4.*=16'"
    )


def host_options(
    host: str | None, port: int | None, python: str, ssh_options: Sequence[str] | None
) -> HostOptions | None:
    """The machine that measures, None where it is this one.

    Raises:
        UsageError: How to reach a machine is said, but not which.
    """
    if host is None:
        if port is not None or ssh_options:
            option = "--port" if port is not None else "--ssh-option"
            raise UsageError(f"{option} is about the machine of --host USER@DEVICE; give it too")
        return None
    words = tuple(word for text in ssh_options or () for word in shlex.split(text))
    return HostOptions(host=host, port=port, python=python, ssh_options=words)


def parse_words(option: str, text: str) -> tuple[str, ...]:
    """``fp16,int8`` as a tuple without repeats.

    Raises:
        UsageError: There is none.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} '{text}' is not a list of names; use {option} a,b")
    return tuple(dict.fromkeys(words))
