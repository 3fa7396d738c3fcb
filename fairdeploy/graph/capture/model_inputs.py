"""All inputs of a network as one record: how it is called, captured, proved, exported and timed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.records import ImageSet
from fairdeploy.records.input_specs import InputSpec, VaryingSize, main_of

EXAMPLE_BATCH = 2
"""Images that a network is captured with: one would bake ``view(x.size(0), -1)`` in."""
_FEWEST_VALUES = 2
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """What goes into a network, in the order of its graph's placeholders."""

    specs: tuple[InputSpec, ...]
    image: int
    """Place of the input that takes the images, or whatever else the data hold."""
    sizes: Mapping[str, int]
    """The varying sizes at capture."""
    example: tuple[Tensor, ...]
    """One tensor per input, batch first."""
    is_batch_fixed: bool = False
    """Whether no other batch than the example's is wanted, or, after the capture, possible."""
    are_pixels: bool = True
    """Whether images that are moved, mirrored or blended are still such as the network knows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the forward's parameters."""
        return tuple(spec.name for spec in self.specs)

    @property
    def batch(self) -> int:
        """Images in the example."""
        first = self.example[self.image]
        return int(first.shape[0]) if first.dim() else 1

    @property
    def others(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one item and type of the inputs that take no images, by name."""
        return {
            spec.name: (spec.shape(self.sizes), _dtype(spec))
            for place, spec in enumerate(self.specs)
            if place != self.image
        }

    def with_batch(self, batch: int) -> ModelInputs:
        """The same with fewer images in the example."""
        example = (tensor[:batch] if tensor.dim() else tensor for tensor in self.example)
        return replace(self, example=tuple(tensor.clone() for tensor in example))

    def other_sizes(self) -> dict[str, int]:
        """Other varying sizes than those of the capture, each other than its neighbour's if it can.

        Empty where no size varies.
        """
        found: dict[str, int] = {}
        for varying in (size for spec in self.specs for size in spec.varying):
            others = [size for size in varying.choices if size != self.sizes[varying.name]]
            found.setdefault(varying.name, others[len(found) % len(others)])
        return found

    def random(
        self, batch: int, generator: torch.Generator, sizes: Mapping[str, int] | None = None
    ) -> tuple[Tensor, ...]:
        """Random values for every input, of its type and range, at these varying sizes."""
        found = []
        for spec, old in zip(self.specs, self.example, strict=True):
            shape = (batch, *spec.shape(sizes or self.sizes)) if old.dim() else ()
            found.append(random_input(spec, shape, generator).to(old.device))
        return tuple(found)

    def arranged(self, images: ImageSet) -> tuple[Tensor, ...]:
        """The tensors of a set of images, one per input."""
        return tuple(
            images.images if place == self.image else images.others[spec.name]
            for place, spec in enumerate(self.specs)
        )

    def call(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Run a module on one tensor per input, by position or by name as its forward wants."""
        args, kwargs = bound(module, self.names, tensors)
        return module(*args, **kwargs)


def model_inputs(
    module: nn.Module,
    specs: Sequence[InputSpec],
    shape: tuple[int, ...],
    fixed_batch: int | None = None,
) -> ModelInputs:
    """The inputs of ``module``, checked against its forward.

    Args:
        module: Its tensors say on which device the example lies.
        specs: In any order; empty for one image that goes into the first parameter.
        shape: Of one image, [C, H, W], or of what else the main input takes; where its sizes vary,
            those of the capture.
        fixed_batch: The only number of images that the network shall take; None: any, if it can.

    Raises:
        UsageError: The forward has no parameter of that name, or needs one that is not given, or
            no input takes data.
    """
    if not specs:
        specs = (InputSpec(_parameter_names(module, 1)[0], shape),)
    main = main_of(specs)
    specs = _in_order_of_forward(module, specs)
    sizes = {size.name: size.largest for spec in specs for size in spec.varying}
    for size, length in zip(main.sizes, shape, strict=True):
        if isinstance(size, VaryingSize):
            sizes[size.name] = length
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    example = tuple(
        torch.zeros(
            fixed_batch or EXAMPLE_BATCH, *spec.shape(sizes), dtype=_dtype(spec), device=device
        )
        for spec in specs
    )
    return ModelInputs(
        specs, specs.index(main), sizes, example, fixed_batch is not None, main.is_image
    )


def inputs_of_example(module: nn.Module, example: tuple[Tensor, ...]) -> ModelInputs:
    """The inputs that these tensors, given by position, stand for; all sizes are fixed."""
    specs = tuple(
        InputSpec(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in zip(_parameter_names(module, len(example)), example, strict=True)
    )
    image = next((place for place, spec in enumerate(specs) if spec.is_image), 0)
    return ModelInputs(specs, image, {}, example)


def bound(
    module: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Arguments by position as long as the forward allows, the rest by name."""
    parameters = _parameters(module)
    given = dict(zip(names, tensors, strict=True))
    by_position: list[Tensor] = []
    for parameter in parameters:
        is_by_position = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        if parameter.name not in given or not is_by_position:
            break
        by_position.append(given.pop(parameter.name))
    if not by_position and any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return tuple(tensors), {}
    return tuple(by_position), given


def random_input(spec: InputSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers, whole numbers in range, or both truth values in every row."""
    if spec.dtype == "bool":
        values = torch.rand(shape, generator=generator) < 0.5
        if len(shape) > 1 and shape[-1] > 1:
            # a mask that hides everything makes softmax give NaN, whichever value hides
            values[..., 0], values[..., 1] = True, False
        return values
    dtype = _dtype(spec)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(spec.num_values or _FEWEST_VALUES, shape, generator=generator).to(dtype)


def _dtype(spec: InputSpec) -> torch.dtype:
    dtype = getattr(torch, spec.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _in_order_of_forward(module: nn.Module, specs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs in the order of the forward's parameters; by position where it names none."""
    parameters = _parameters(module)
    kinds = {parameter.kind for parameter in parameters}
    named = [p.name for p in parameters if p.kind in (*_NAMED, inspect.Parameter.POSITIONAL_ONLY)]
    if inspect.Parameter.VAR_POSITIONAL in kinds and not named:
        return tuple(specs)
    unknown = [spec.name for spec in specs if spec.name not in named]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise UsageError(
            f"the model has no input '{unknown[0]}'; its forward takes {', '.join(named)}"
        )
    given = {spec.name: spec for spec in specs}
    for parameter in parameters:
        is_needed = parameter.default is inspect.Parameter.empty and parameter.name in named
        if is_needed and parameter.name not in given:
            raise UsageError(
                f"the model's forward also needs '{parameter.name}'; describe every input, for "
                f"example --input {parameter.name}:3,224,224"
            )
    known = [given.pop(name) for name in named if name in given]
    return (*known, *given.values())


def _parameter_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first parameters of the forward; made up where it has no names for them."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in _parameters(module) if p.kind not in kinds][:count]
    made_up = ["input"] if count == 1 else [f"input_{place}" for place in range(count)]
    return tuple([*names, *made_up[len(names) :]])


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the forward of {type(module).__name__} has no readable signature ({error}); "
            "wrap it in a module whose forward names its inputs"
        ) from error
