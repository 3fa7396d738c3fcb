"""Folders that ``save_pretrained`` of transformers wrote: ``config.json`` and safetensors.

The network's class is looked up in transformers by its name. Code that a folder brings along or
names (``auto_map``, kernels of a hub) never runs, no pickle is opened and nothing is fetched; a
configuration that asks for more memory than there are weights is refused before any is taken.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fairdeploy.errors import ModelError
from fairdeploy.files import read_regular_text
from fairdeploy.inputs.factories import one_line
from fairdeploy.inputs.published_preprocessing import Published
from fairdeploy.inputs.torchvision_compat import ensure_torchvision

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_ADAPTER = "adapter_config.json"
# They name code of other places, which these classes would fetch and run.
_NAMES_CODE = ("auto_map", "attn_implementation", "experts_implementation", "use_kernels")
_MAX_GROWTH = 1.5
"""Of a network over its weights: some are shared, or half as wide in the file."""
_RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def is_transformers_folder(path: Path) -> bool:
    """Whether it says which class of transformers its weights belong to."""
    if not (path / _CONFIG).is_file():
        return False
    return bool(_read(path / _CONFIG).get("architectures"))


def load_transformers_folder(path: Path) -> tuple[nn.Module, Published]:
    """The network with its weights in float32, and how its images are prepared.

    Raises:
        ModelError: transformers is missing or does not know the class, or the folder is damaged.
    """
    said = _read(path / _CONFIG)
    name = _class_name(path, said)
    if (path / _ADAPTER).exists():  # the weights of wherever it points would be loaded instead
        raise ModelError(f"'{path}' holds an adapter ({_ADAPTER}); merge it and save the network")
    ensure_torchvision()
    try:
        package = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"'{path}' needs transformers; run pip install transformers") from error
    kind = getattr(package, name, None)
    if not (isinstance(kind, type) and issubclass(kind, package.PreTrainedModel)):
        raise ModelError(
            f"transformers {package.__version__} has no network '{name}', which '{path}' names; "
            "install the version that wrote it, or give the weights with --arch file.py:factory"
        )
    try:
        with _without_progress_bar(package):
            network = _filled(path, kind, said)
    except ModelError:
        raise
    except Exception as error:  # transformers raises many types
        raise ModelError(
            f"'{path}' cannot be loaded as {name} ({type(error).__name__}: {one_line(error)})"
        ) from error
    return network, _published(path, said)


@contextmanager
def _without_progress_bar(package: Any) -> Iterator[None]:
    """Its bar is not for this terminal; afterwards it draws as the program wants it."""
    told = package.utils.logging
    was_on = told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            told.enable_progress_bar()


def _filled(path: Path, kind: Any, said: Mapping[str, Any]) -> nn.Module:
    config = kind.config_class.from_dict(_without_code(said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            drawn = kind(config)
        _check_growth(path, drawn)
        network, told = kind.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    for problem in ("missing_keys", "mismatched_keys"):
        if told[problem]:
            first = sorted(map(str, told[problem]))[0]
            raise ModelError(
                f"'{path}' does not hold all of {kind.__name__}: {problem.partition('_')[0]} "
                f"{first}, of {len(told[problem])}; was it written for another task?"
            )
    return cast("nn.Module", network.eval())


def _check_growth(path: Path, drawn: nn.Module) -> None:
    held = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if not held:
        raise ModelError(f"'{path}' holds no .safetensors; save it with save_pretrained")
    # Half precision in the file doubles once it is loaded.
    asked = sum(2 * tensor.numel() for tensor in drawn.parameters())
    if asked > _MAX_GROWTH * held:
        raise ModelError(
            f"'{path / _CONFIG}' describes a network of {asked / 2:,.0f} parameters and its "
            f"weights have {held:,} bytes; they do not belong together"
        )


def _class_name(path: Path, said: Mapping[str, Any]) -> str:
    names = said["architectures"]
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise ModelError(f"'{path / _CONFIG}' is damaged: architectures is no list of names")
    if "quantization_config" in said:
        raise ModelError(f"'{path}' is quantised; give the network before quantisation")
    if not names[0].isidentifier() or names[0].startswith("_"):
        raise ModelError(f"'{path / _CONFIG}' names no class in architectures")
    return names[0]


def _without_code(said: Any) -> Any:
    if isinstance(said, dict):
        kept = {
            key: _without_code(value)
            for key, value in said.items()
            if key.lstrip("_") not in _NAMES_CODE
        }
        if "use_pretrained_backbone" in kept:
            kept["use_pretrained_backbone"] = False  # the weights are here
        return kept
    return [_without_code(value) for value in said] if isinstance(said, list) else said


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_regular_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read ({one_line(error)})") from error
    if not isinstance(said, dict):
        raise ModelError(f"'{path}' is damaged: it holds no table")
    return said


# ---- how images are prepared ---------------------------------------------------------------------


def _published(path: Path, said: Mapping[str, Any]) -> Published:
    """From ``preprocessor_config.json``, and the size of the network's images."""
    file = path / _PREPROCESSOR
    prepared = _read(file) if file.is_file() else {}
    try:
        return _from_preprocessor(prepared, said)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(
            f"'{file if prepared else path / _CONFIG}' says how images are prepared in a way that "
            f"cannot be ({one_line(error)}); mend it, or delete it and give --input-size, --mean "
            "and --std"
        ) from error


def _from_preprocessor(prepared: Mapping[str, Any], said: Mapping[str, Any]) -> Published:
    channels = int(said.get("num_channels") or 3)
    resized = _sides(prepared.get("size"))
    cut = _sides(prepared.get("crop_size")) if prepared.get("do_center_crop") else None
    sides = cut or resized or _sides(said.get("image_size"))
    is_squashed = cut is None and isinstance(prepared.get("size"), dict)
    is_squashed = is_squashed and "height" in prepared["size"]
    share = prepared.get("crop_pct")
    if cut and resized:
        share = cut[0] / resized[0]
    normalises = bool(prepared) and prepared.get("do_normalize", True)
    mean, std = (prepared.get(key) if normalises else None for key in ("image_mean", "image_std"))
    return Published(
        input_size=(channels, *sides) if sides else None,
        mean=None if mean is None else tuple(map(float, mean)),
        std=None if std is None else tuple(map(float, std)),
        crop_pct=float(share) if share else 1.0 if prepared else None,
        crop_mode="squash" if is_squashed else "center" if prepared else None,
        interpolation=cast("Any", _RESAMPLING.get(prepared.get("resample", -1))),
        num_classes=len(said["id2label"]) if said.get("id2label") else None,
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width of ``224``, ``[224, 224]``, ``{"shortest_edge": 224}`` and the like."""
    if size is None:
        return None
    if isinstance(size, dict):
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
        return int(size["height"]), int(size["width"])
    if isinstance(size, list):
        height, width = size
        return int(height), int(width)
    return int(size), int(size)
