"""Why a network cannot be captured, in one line each: where in the user's code, and what helps."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from fairdeploy.errors import ModelError
from fairdeploy.graph.capture.model_inputs import ModelInputs
from fairdeploy.records.input_specs import sizes_text

_MAX_TEXT = 300
_SPECIALIZED = re.compile(r"specialized it to be a constant \((\d+)\)")
_OUR_ROOT = str(Path(__file__).parent)
_TORCH_ROOT = str(Path(torch.__file__).parent)


def refused_trace(module: nn.Module, error: BaseException | None) -> ModelError:
    """``torch.export`` refuses a network that runs."""
    return ModelError(
        f"torch.export cannot trace this model{_where(error)} ({_text(error)}); "
        "rewrite that line without data-dependent control flow"
    )


def refused_inputs(module: nn.Module, inputs: ModelInputs, error: BaseException) -> ModelError:
    """The network does not even run on the inputs that were described."""
    nests = [
        f"'{parameter.name}' is a {parameter.annotation}"
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.name in inputs.names and _is_nest(parameter.annotation)
    ]
    if nests:
        return ModelError(
            f"the model takes a nest of tensors ({nests[0]}), which --input cannot describe; wrap "
            "it in a module whose forward takes one tensor per input"
        )
    shown = ", ".join(
        f"{spec.name} {list(tensor.shape)} {spec.dtype}"
        for spec, tensor in zip(inputs.specs, inputs.example, strict=True)
    )
    return ModelError(
        f"the model fails on inputs {shown}{_where(error)} ({_text(error)}); give the image size "
        "that it was made for with --input-size, every input with --input NAME:SIZES, or the only "
        "number of images that it takes with --fixed-batch"
    )


def refused_sizes(
    names: Sequence[str],
    inputs: ModelInputs,
    error: BaseException | None,
    at: Mapping[str, int] | None = None,
) -> ModelError:
    """A size that should vary cannot; ``at``: the sizes where that was seen."""
    ranges = {size.name: str(size) for spec in inputs.specs for size in spec.varying}
    what = " and ".join(f"'{ranges[name]}'" for name in names)
    reason = f"{_where(error)} ({_text(error)})" if error is not None else ""
    if at is not None:
        sizes = sizes_text(at)
        what += (
            f": at {sizes} it fails" if error is not None else f": at {sizes} it runs other code"
        )
    fixed = next(
        f"{spec.name}:{','.join(map(str, spec.shape(inputs.sizes)))}"
        for spec in inputs.specs
        if spec.varying
    )
    return ModelError(
        f"the model cannot take the sizes {what}{reason}; give a step that it can take, as in "
        f"H=192-320/32, or a fixed size: --input {fixed}"
    )


def _is_nest(annotation: object) -> bool:
    text = annotation if isinstance(annotation, str) else str(annotation)
    text = text.lower().removeprefix("<class '").removeprefix("typing.")
    return text.startswith(("list", "dict", "tuple", "sequence", "mapping"))


def _text(error: BaseException | None) -> str:
    only = _SPECIALIZED.search(str(error))
    if only is not None:
        return f"the model's code takes {only[1]} only"
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:_MAX_TEXT]}"


def _where(error: BaseException | None) -> str:
    """The last line of user code that an exception went through."""
    if error is None:
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_TORCH_ROOT, _OUR_ROOT, "<")):
            return f" at {frame.filename}:{frame.lineno} in {frame.name}: '{frame.line}'"
    return ""
