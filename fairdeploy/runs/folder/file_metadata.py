"""What every exported file carries inside: where it came from, and how to feed and read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata as packages
from typing import Any

from fairdeploy.errors import ModelError
from fairdeploy.records import CHANNEL_ORDERS, CROP_MODES, INTERPOLATIONS, Preprocessing
from fairdeploy.records.image_preparation import fit_in_words, pixels_in_words
from fairdeploy.records.input_specs import parse_inputs

PLAN_KEY = "fairdeploy.plan_sha256"
PREPROCESSING_KEY = "fairdeploy.preprocessing"
ITEM_KEY = "fairdeploy.input"
"""In its place where the model takes no images: name, sizes and type, as for ``--input``."""
MAIN_OUTPUT_KEY = "fairdeploy.main_output"

_PACKAGES = ("fairdeploy", "torch", "onnx")


def file_metadata(
    origin: Mapping[str, str],
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    main_output: int,
) -> dict[str, str]:
    """Texts for the file; what is not plain text is JSON.

    Args:
        origin: Model and plan, from ``Plan.metadata``.
        preprocessing: From image files to the input.
        class_names: In the order of the scores.
        main_output: Place of the output with the scores.
    """
    told, item = preprocessing.told(), preprocessing.item
    if told is not None:
        told |= {"fit": fit_in_words(told), "pixels": pixels_in_words(told)}
    taken = {PREPROCESSING_KEY: json.dumps(told)} if item is None else {ITEM_KEY: str(item)}
    return {
        # a file's name may hold bytes that are no text
        **{key: text.encode(errors="backslashreplace").decode() for key, text in origin.items()},
        **taken,
        "fairdeploy.classes": json.dumps(list(class_names) if class_names else None),
        MAIN_OUTPUT_KEY: str(main_output),
        "fairdeploy.versions": json.dumps({name: _version(name) for name in _PACKAGES}),
    }  # fmt: skip


def preprocessing_from(metadata: Mapping[str, str]) -> Preprocessing:
    """The preprocessing that ``file_metadata`` wrote down.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    advice = "shrink the network again with this fairdeploy"
    text, item = metadata.get(PREPROCESSING_KEY), metadata.get(ITEM_KEY)
    if text is None and item is not None:
        return Preprocessing.of_item(parse_inputs([item])[0])
    if text is None:
        raise ModelError(f"report.json does not tell how images become inputs; {advice}")
    try:
        return _read(json.loads(text))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"report.json is damaged where it tells how images become inputs; {advice}"
        ) from error


def _read(told: Mapping[str, Any]) -> Preprocessing:
    """Older results lack the keys that came later, and did what the defaults say."""
    known: dict[str, Any] = {
        "channels": int(told["channels"]),
        "height": int(told["height"]),
        "width": int(told["width"]),
        "mean": tuple(float(number) for number in told["mean"]),
        "std": tuple(float(number) for number in told["std"]),
    }
    words: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("crop_mode", CROP_MODES),
        ("interpolation", INTERPOLATIONS),
        ("channel_order", CHANNEL_ORDERS),
    )
    for key, choices in words:
        if told.get(key) is not None:
            known[key] = choices[choices.index(told[key])]
    if told.get("crop_pct") is not None:
        known["crop_pct"] = float(told["crop_pct"])
    if told.get("white") is not None:
        known["white"] = int(told["white"])
    return Preprocessing(**known)


def _version(name: str) -> str | None:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return None
