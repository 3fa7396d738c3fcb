"""Loads ``.pt2`` files: a graph that needs none of the user's code."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.train_mode import switchable
from fairdeploy.inputs.archives import ZIP_ERRORS, opened_archive
from fairdeploy.inputs.exported_program_safety import clean_program
from fairdeploy.inputs.factories import one_line

_LEAST_DIMS = 2


@dataclass(frozen=True, slots=True)
class ExportedNetwork:
    """The graph as a module, and what its first input takes."""

    module: nn.Module
    image_shape: tuple[int, ...] | None
    """[C, H, W], or of what else it takes; None where it holds no floats."""


def is_exported_program(path: Path) -> bool:
    """Whether a file is an archive that ``torch.export.save`` wrote, whatever its name."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with opened_archive(path, ModelError) as archive:
            names = archive.namelist()
            formats = [name for name in names if name.split("/")[-1] == "archive_format"]
            if formats:
                return archive.read(formats[0]).strip() == b"pt2"
    except ZIP_ERRORS as error:
        raise ModelError(
            f"'{path}' is a damaged zip file ({one_line(error, 120)}); copy or save it again"
        ) from error
    return "serialized_exported_program.json" in names


def load_exported_program(path: Path, *, trust_pickle: bool) -> ExportedNetwork:
    """Rebuild the graph; its guards, which are Python source, are left out.

    Raises:
        UnsafePickleError: Reading the file would run code; see ``exported_program_safety``.
        ModelError: The file is damaged or of an unknown version.
    """
    source = path if trust_pickle else clean_program(path)
    try:
        with _silenced_export_log():
            program = torch.export.load(source)
        module = program.module(check_guards=False)
    except Exception as error:  # the reader lets any exception of a damaged file through
        raise ModelError(
            f"'{path}' cannot be read as an exported program ({one_line(error, 120)}); "
            "export it again with the installed torch"
        ) from error
    _reject_training_mode(path, program)
    network = switchable(module)
    network.register_forward_pre_hook(_inputs_by_position, prepend=True, with_kwargs=True)
    return ExportedNetwork(network, _image_shape(program))


def _reject_training_mode(path: Path, program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        values = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        if values.get("training") is True or values.get("train") is True:
            raise ModelError(
                f"'{path}' was exported in training mode ('{node.name}' has it built in); "
                "call model.eval() before torch.export.export"
            )


def _inputs_by_position(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Let a graph that was exported with inputs by position take them by name too."""
    graph = getattr(module, "graph", None)
    info = getattr(getattr(graph, "_codegen", None), "pytree_info", None) if kwargs else None
    if info is None or info.in_spec.child(1).num_children:
        return None
    names = info.orig_args[len(args) :]
    if set(names) != set(kwargs):
        return None  # torch's own check says what is wrong
    return (*args, *(kwargs[name] for name in names)), {}


@contextmanager
def _silenced_export_log() -> Iterator[None]:
    # torch logs a whole traceback before it raises.
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _image_shape(program: ExportedProgram) -> tuple[int, ...] | None:
    """Shape of the first input without its batch, from the example that the export was made of."""
    shape = _example_shape(program) or _traced_shape(program)
    return None if shape is None or len(shape) < _LEAST_DIMS else shape[1:]


def _example_shape(program: ExportedProgram) -> tuple[int, ...] | None:
    if not program.example_inputs:
        return None
    args, kwargs = program.example_inputs
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return tuple(value.shape) if value.is_floating_point() else None
    return None


def _traced_shape(program: ExportedProgram) -> tuple[int, ...] | None:
    user_inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in user_inputs and isinstance(value, Tensor):
            if not value.is_floating_point():
                return None
            # A symbolic size would add a guard if it were turned into an int.
            sizes = [size if isinstance(size, int) else -1 for size in value.shape]
            return tuple(sizes) if min(sizes[1:], default=-1) > 0 else None
    return None
