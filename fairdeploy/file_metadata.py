"""What every exported file carries inside: where it came from, and how to feed and read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata as packages

from fairdeploy.errors import ModelError
from fairdeploy.records import Preprocessing

PLAN_KEY = "fairdeploy.plan_sha256"
PREPROCESSING_KEY = "fairdeploy.preprocessing"
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
    return {
        **origin,
        PREPROCESSING_KEY: json.dumps(
            asdict(preprocessing)
            | {"fit": "shorter side just covers the input, bicubic, then the centre",
               "pixels": "RGB or grey, divided by 255, minus mean, divided by std"}
        ),
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
    text = metadata.get(PREPROCESSING_KEY)
    if text is None:
        raise ModelError(f"report.json does not tell how images become inputs; {advice}")
    try:
        told = json.loads(text)
        return Preprocessing(
            int(told["channels"]),
            int(told["height"]),
            int(told["width"]),
            tuple(float(number) for number in told["mean"]),
            tuple(float(number) for number in told["std"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"report.json is damaged where it tells how images become inputs; {advice}"
        ) from error


def _version(name: str) -> str | None:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return None
