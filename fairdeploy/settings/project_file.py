"""``fairdeploy.toml`` beside the model: defaults for the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from fairdeploy.errors import ProjectFileError, UsageError
from fairdeploy.records import (
    ALLOCATION_RULES,
    CHANNEL_ORDERS,
    CLASS_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    PROTECTIONS,
    SIGNALS,
    AllocationRule,
    ChannelOrder,
    ClassOrder,
    CropMode,
    Interpolation,
    MetricName,
    ProtectName,
    SignalName,
)
from fairdeploy.records.architecture import is_factory_spec, parse_architecture
from fairdeploy.records.method import ATTENTION_OPTIONS, AttentionOption, choice_of
from fairdeploy.records.metrics import COUNTED
from fairdeploy.records.task_names import parse_task
from fairdeploy.settings.toml import (
    Reader,
    Schema,
    by_glob,
    described,
    numbers,
    positive_number,
    read_text,
    read_toml_table,
    read_values,
    share,
    table_schema,
    text,
    text_or_texts,
    texts,
    truth,
    whole_number,
)
from fairdeploy.settings.values import parse_drop

PROJECT_FILE_NAME = "fairdeploy.toml"

_Choice = TypeVar("_Choice", bound=str)
_LARGEST_RATE = 1.0


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """One field per key, None where the file does not have it.

    There is no key for ``--trust-pickle``, nor for ``--trust-project``: a folder that comes with a
    model must not be able to ask for it.
    """

    arch: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    input_size: int | tuple[int, int, int] | None = None
    """Height = width, or [C, H, W]."""
    inputs: tuple[str, ...] | None = None
    """As for ``--input``."""
    main_output: str | None = None
    fixed_batch: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    """This and the next four: see ``records.ImageFitting``."""
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    white: int | None = None
    data: str | None = None
    """A path, made absolute against the file's folder, or a factory."""
    class_names: tuple[str, ...] | None = None
    """In the order in which the model numbers its classes."""
    class_order: ClassOrder | None = None
    task: str | None = None
    num_calibration: int | None = None
    num_selection: int | None = None
    max_test: int | None = None
    budget: tuple[str, ...] | None = None
    target: str | None = None
    """Name of a profile, or the path of one, made absolute."""
    seed: int | None = None
    recover: str | None = None
    signal: SignalName | None = None
    protect: ProtectName | None = None
    allocation: AllocationRule | None = None
    attention: AttentionOption | None = None
    allow_norm_coupled: bool | None = None
    blocks: bool | None = None
    output: str | None = None
    """A path, made absolute."""
    include: tuple[str, ...] | None = None
    """Globs on module paths, as in ``exclude``, ``max_prune`` and ``min_units``."""
    exclude: tuple[str, ...] | None = None
    max_prune: tuple[tuple[str, float], ...] | None = None
    min_units: tuple[tuple[str, int], ...] | None = None
    round_to: int | None = None
    steps: int | None = None
    max_drop: float | None = None
    smallest: MetricName | None = None
    finetune: int | None = None
    """Epochs; the next five say how."""
    distill: bool | None = None
    distill_features: bool | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    ema: bool | None = None


def load_project_file(folder: Path) -> ProjectFile:
    """Read ``fairdeploy.toml`` in ``folder``; without one every field is None.

    Raises:
        ProjectFileError: Not TOML, an unknown key, or a value of the wrong kind.
    """
    path = folder / PROJECT_FILE_NAME
    if not path.exists():
        return ProjectFile()
    project = ProjectFile(**read_toml_table(read_text(path), path, _READERS))
    return replace(
        project,
        arch=_located_factory(project.arch, folder),
        task=_located_factory(project.task, folder),
        data=_located(project.data, folder),
        output=_located(project.output, folder),
        target=_located_profile(project.target, folder),
    )


def settings_from_keywords(keywords: Mapping[str, object]) -> ProjectFile:
    """What a call from Python says: the keys of ``fairdeploy.toml`` as keywords, None for absent.

    Raises:
        UsageError: An unknown name, or a value of the wrong kind.
    """
    given = {key: _as_in_toml(value) for key, value in keywords.items() if value is not None}
    try:
        return ProjectFile(**read_values(given, "the call", _READERS))
    except ProjectFileError as error:
        raise UsageError(str(error)) from error


def _as_in_toml(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def overruled(project: ProjectFile, said: ProjectFile | None) -> ProjectFile:
    """``project`` with what a call from Python says in its place."""
    given = {} if said is None else {f.name: getattr(said, f.name) for f in fields(said)}
    return replace(project, **{name: value for name, value in given.items() if value is not None})


def refuse_foreign_code(path: Path, used: Mapping[str, str | None]) -> None:
    """Refuse values that name code, where the file that gives them lies outside the working folder.

    Who works in a folder runs what is in it; a folder that merely holds a model is a stranger's.

    Args:
        path: The file; a link counts as lying where it points to.
        used: ``arch``, ``data`` and ``task``, as far as they come from the file.

    Raises:
        ProjectFileError: It names code.
    """
    named = {key: text for key, text in used.items() if text is not None and _is_code(key, text)}
    if named and not os.path.samefile(path.resolve().parent, Path.cwd()):
        key, text = next(iter(named.items()))
        raise ProjectFileError(
            f"'{path}' is not in the current folder and names code to run: {key} = '{text}'; look "
            f"at it, and add --trust-project if you trust its author, or give --{key} yourself"
        )


def _is_code(key: str, text: str) -> bool:
    """Whether the value is a factory, or hands a library's builder more than plain values.

    Texts and tables among a builder's options name files and addresses that it would load from.
    """
    if key != "arch":
        return is_factory_spec(text)
    architecture = parse_architecture(text)
    is_plain = all(_is_plain(value) for value in architecture.options.values())
    return architecture.family == "factory" or not is_plain


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float)


def _input_size(value: object) -> int | tuple[int, int, int]:
    items = value if isinstance(value, list) else [value]
    sizes = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    if len(sizes) != len(items) or len(sizes) not in (1, 3) or min(sizes) < 1:
        raise ValueError("one whole number, or three: [channels, height, width]")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1], sizes[2])


def _task(value: object) -> str:
    try:
        return parse_task(text(value))
    except UsageError as error:
        raise ValueError(str(error).partition("; use ")[2]) from error


def _positive_numbers(value: object) -> tuple[float, ...]:
    return tuple(positive_number(item) for item in numbers(value))


def _drop(value: object) -> float:
    """A share of all images, as a number or as a text: 0.01 or "1%"."""
    try:
        drop = parse_drop(str(value)) if isinstance(value, str | float | int) else None
    except UsageError:
        drop = None
    if drop is None or isinstance(value, bool):
        raise ValueError('a share of all images below 100%, such as "1%" or 0.01')
    return drop


def _rate(value: object) -> float:
    rate = positive_number(value)
    if rate > _LARGEST_RATE:
        raise ValueError("a number above 0 and at most 1")
    return rate


def _one_of(choices: tuple[_Choice, ...]) -> Callable[[object], _Choice]:
    def read(value: object) -> _Choice:
        option = choice_of(value, choices)
        if option is None:
            raise ValueError(f"one of {', '.join(choices)}")
        return option

    return described(read, enum=list(choices))


_SIZE = {"type": "integer", "minimum": 1}
_ABOVE_0 = {"type": "number", "exclusiveMinimum": 0}
_SIZES = tuple({"type": "array", "items": _SIZE, "minItems": n, "maxItems": n} for n in (1, 3))
described(_input_size, anyOf=[_SIZE, *_SIZES])
described(_positive_numbers, anyOf=[_ABOVE_0, {"type": "array", "items": _ABOVE_0, "minItems": 1}])
described(
    _drop, anyOf=[{"type": "string"}, {"type": "number", "minimum": 0, "exclusiveMaximum": 1}]
)
described(_task, type="string")
described(_rate, **_ABOVE_0, maximum=_LARGEST_RATE)

_READERS: dict[str, Reader] = {
    "arch": text,
    "weights": text,
    "num_classes": whole_number(1),
    "input_size": _input_size,
    "inputs": text_or_texts,
    "main_output": text,
    "fixed_batch": whole_number(1),
    "mean": numbers,
    "std": _positive_numbers,
    "crop_pct": positive_number,
    "crop_mode": _one_of(CROP_MODES),
    "interpolation": _one_of(INTERPOLATIONS),
    "channel_order": _one_of(CHANNEL_ORDERS),
    "white": whole_number(1),
    "data": text,
    "class_names": texts,
    "class_order": _one_of(CLASS_ORDERS),
    "task": _task,
    "num_calibration": whole_number(2),
    "num_selection": whole_number(10),
    "max_test": whole_number(0),
    "budget": text_or_texts,
    "target": text,
    "seed": whole_number(0),
    "recover": text,
    "signal": _one_of(SIGNALS),
    "protect": _one_of(PROTECTIONS),
    "allocation": _one_of(ALLOCATION_RULES),
    "attention": _one_of(ATTENTION_OPTIONS),
    "allow_norm_coupled": truth,
    "blocks": truth,
    "output": text,
    "include": text_or_texts,
    "exclude": text_or_texts,
    "max_prune": by_glob(share, '"layer4.*" = 0.3'),
    "min_units": by_glob(whole_number(1), '"layer4.*" = 16'),
    "round_to": whole_number(1),
    "steps": whole_number(1),
    "max_drop": _drop,
    "smallest": _one_of(COUNTED),
    "finetune": whole_number(1),
    "distill": truth,
    "distill_features": truth,
    "learning_rate": _rate,
    "batch_size": whole_number(2),
    "ema": truth,
}


def project_schema() -> Schema:
    """JSON Schema of ``fairdeploy.toml``."""
    return table_schema(PROJECT_FILE_NAME, _READERS)


def _located(value: str | None, folder: Path) -> str | None:
    """A path made absolute against ``folder``; ``package.module:factory`` stays as it is."""
    if value is None:
        return None
    if is_factory_spec(value):
        return _located_factory(value, folder)
    return str(folder.resolve() / Path(value).expanduser())


def _located_factory(value: str | None, folder: Path) -> str | None:
    """``file.py:factory`` with the file made absolute; anything else stays as it is."""
    if value is None:
        return None
    module, colon, rest = value.partition(".py:")
    if not colon:
        return value
    return f"{folder.resolve() / Path(module).expanduser()}.py:{rest}"


def _located_profile(value: str | None, folder: Path) -> str | None:
    return _located(value, folder) if value is not None and value.endswith(".toml") else value
