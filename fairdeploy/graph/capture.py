"""From a user's module to a functional ATen graph, through ``torch.export``.

The example batch has two images: with one, ``view(x.size(0), -1)`` would bake the batch in.
"""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from fairdeploy.errors import ModelError
from fairdeploy.graph.functionalize import make_functional

EXAMPLE_BATCH = 2


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A functional graph module that shares its tensors with the captured module."""

    module: fx.GraphModule
    has_dynamic_batch: bool
    example_inputs: tuple[Tensor, ...]


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keep torch's export warnings and log lines from the user."""
    # torch prints the traced graph to stderr when it refuses a model
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export_program(
    module: nn.Module, example_inputs: tuple[Tensor, ...]
) -> tuple[torch.export.ExportedProgram, bool]:
    """Export with a dynamic batch, or with a fixed one if the model refuses.

    Returns:
        The program, and whether its batch is dynamic.

    Raises:
        ModelError: ``torch.export`` cannot trace the model; says where in the user's code.
    """
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in example_inputs)
    with quiet_export(), torch.no_grad():
        try:
            return torch.export.export(module, example_inputs, dynamic_shapes=dynamic), True
        except Exception:  # the second try tells the user what is wrong
            logging.getLogger(__name__).debug("no dynamic batch", exc_info=True)
        try:
            # the failed try has marked its inputs as dynamic: take new ones
            fixed = tuple(example.clone() for example in example_inputs)
            return torch.export.export(module, fixed), False
        except Exception as error:
            raise ModelError(_refusal(error)) from error


def capture(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> CapturedGraph:
    """Capture ``module`` in eval mode as one flat graph of ATen calls.

    Args:
        module: In eval mode; not changed.
        example_inputs: Batch of ``EXAMPLE_BATCH`` images each.

    Raises:
        ModelError: ``torch.export`` cannot trace the model.
    """
    program, is_dynamic = export_program(module, example_inputs)
    with quiet_export():
        graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return CapturedGraph(make_functional(graph_module), is_dynamic, example_inputs)


def _refusal(error: BaseException) -> str:
    """One line: what torch.export said, and the last line of user code that it was in."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    where = ""
    torch_root = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((torch_root, "<")) and __file__ != frame.filename:
            where = f" at {frame.filename}:{frame.lineno} in {frame.name}: '{frame.line}'"
            break
    return (
        f"torch.export cannot trace this model{where} ({type(error).__name__}: {text[:300]}); "
        "rewrite that line without data-dependent control flow"
    )
