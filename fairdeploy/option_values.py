"""Option values that are small lists: ``--input-size 3,224,224``, ``--mean 0.5,0.5,0.5``."""

from __future__ import annotations

import math

from fairdeploy.errors import UsageError
from fairdeploy.options import InputShape

_CHANNELS_HEIGHT_WIDTH = 3


def parse_input_shape(text: str | None) -> InputShape | None:
    """``32`` as 32, ``3,224,224`` as a tuple; None stays None.

    Raises:
        UsageError: Anything else.
    """
    if text is None:
        return None
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


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``0.5,0.5,0.5`` as a tuple; None stays None.

    Raises:
        UsageError: A part is not a finite number.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise UsageError(f"{option} '{text}' is not a list of numbers; use {option} 0.5,0.5,0.5")
    return numbers
