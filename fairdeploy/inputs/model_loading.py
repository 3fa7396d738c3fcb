"""Loads the network to shrink, whatever form it comes in, without running code from the file."""

from __future__ import annotations

import copy
import functools
import importlib
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from fairdeploy.errors import ModelError, UsageError
from fairdeploy.files import is_index, model_name, open_regular
from fairdeploy.inputs.architectures import build_network
from fairdeploy.inputs.checkpoint_contents import (
    Weights,
    WeightSet,
    find_weight_sets,
    unwrapped,
)
from fairdeploy.inputs.exported_programs import is_exported_program, load_exported_program
from fairdeploy.inputs.factories import one_line
from fairdeploy.inputs.fingerprint import sha256_of_tensors
from fairdeploy.inputs.input_format import (
    InputHints,
    InputShape,
    find_preprocessing,
    image_size_from_option,
)
from fairdeploy.inputs.names import check_module_names, check_weight_names
from fairdeploy.inputs.pickle_safety import damaged, load_checkpoint
from fairdeploy.inputs.published_preprocessing import Published, published_preprocessing
from fairdeploy.inputs.sharded_weights import read_shards, weights_file
from fairdeploy.inputs.state_dicts import (
    fill_network,
    infer_num_classes,
    quantised,
    quantised_name,
)
from fairdeploy.inputs.transformers_folder import is_transformers_folder, load_transformers_folder
from fairdeploy.inputs.weight_choice import choose_module, choose_weights
from fairdeploy.records import ImageFitting, LoadedModel
from fairdeploy.records.architecture import Architecture, is_factory_spec, parse_architecture
from fairdeploy.records.input_specs import InputSpec

_FOREIGN_KINDS = {
    ".onnx": "an ONNX file",
    ".h5": "a Keras file",
    ".keras": "a Keras file",
    ".pb": "a TensorFlow file",
    ".tflite": "a TensorFlow Lite file",
    ".engine": "a TensorRT engine",
}
_MAX_IMAGE_NUMBERS = 2**28
_DIRECT_PREFIXES = ("timm:", "torchvision:")


def load_model(
    source: str,
    *,
    arch: str | None = None,
    trust_pickle: bool = False,
    num_classes: int | None = None,
    input_shape: InputShape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    inputs: tuple[InputSpec, ...] = (),
    weights: str | None = None,
    fitting: ImageFitting | None = None,
) -> LoadedModel:
    """Load a network in eval mode, in float32, on the CPU.

    Args:
        source: A file (whole pickled module, state dict, safetensors, ``.pt2``), the index of
            sharded weights, ``timm:NAME``, ``torchvision:NAME`` or what names a factory. Those by
            name have random weights unless ``,pretrained=true`` follows; a factory gives its own.
        arch: The network that a state dict belongs to; see ``architectures``.
        trust_pickle: Let the file run code.
        num_classes: Length of the classifier; read off a state dict where it is not given.
        input_shape: [C, H, W], or H = W with the channels of the first convolution.
        mean: Per channel, of images in [0, 1]; overrides the model's own configuration.
        std: The same.
        seed: Of random weights. The caller's random state stays as it was.
        inputs: What the network takes, if not one image and nothing else.
        weights: Key or prefix of the weights to take where a file holds several.
        fitting: How images are resized and cut; overrides the model's own configuration.

    Raises:
        ModelError: The file or the weights cannot be used; ``UnsafePickleError`` if it would run
            code.
        UsageError: An option is missing or impossible.
    """
    hints = InputHints(
        shape=input_shape, mean=mean, std=std, inputs=inputs, fitting=fitting or ImageFitting()
    )
    if source.startswith(_DIRECT_PREFIXES) or _names_factory(source):
        _refuse_weights(source, weights)
        return _load_by_name(source, arch, num_classes, hints, seed)
    if arch is None and is_transformers_folder(Path(source)):
        _refuse_weights(source, weights)
        folder = Path(source)
        network, published = load_transformers_folder(folder)
        hints = replace(hints, published=published, may_be_other=False)
        return _finished(source, folder.resolve().name, network, hints)
    path = weights_file(Path(source))
    _check_file(path)
    if is_exported_program(path):
        _refuse_weights(source, weights)
        program = load_exported_program(path, trust_pickle=trust_pickle)
        hints = replace(hints, image_size=program.image_shape)
        return _finished(source, path.stem, program.module, hints, is_user_class=False)
    sets = _read_sets(path, trust_pickle)
    chosen = choose_module(sets, source=source, wanted=weights)
    if chosen is not None and chosen.module is not None:
        check_module_names(source, chosen.module)
        ignored = (f"'{source}' holds a whole module; --arch {arch} is ignored",) if arch else ()
        notes = (*ignored, *chosen.notes)
        return _finished(
            source, path.stem, chosen.module, hints, warnings=notes, weights=chosen.text
        )
    return _load_state_dict(
        source, sets, arch=arch, num_classes=num_classes, hints=hints, seed=seed, wanted=weights
    )


def adopt_module(
    module: nn.Module,
    name: str,
    *,
    input_shape: InputShape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    inputs: tuple[InputSpec, ...] = (),
    fitting: ImageFitting | None = None,
) -> LoadedModel:
    """A copy of a network of this process, in eval mode, in float32, on the CPU.

    Args:
        module: As it is trained, or in a data-parallel, averaging or compiling wrapper; it is left
            as it is.
        name: What to call it.
        input_shape: As for ``load_model``, like the others.

    Raises:
        ModelError: It cannot be copied, or its weights cannot be used.
        UsageError: An option is missing or impossible.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"'{name}' is a TorchScript module, which cannot be rewritten; give the "
            "module that it was made from"
        )
    hints = InputHints(
        shape=input_shape, mean=mean, std=std, inputs=inputs, fitting=fitting or ImageFitting()
    )
    return _finished(name, name, _copied(unwrapped(module), name), hints)


def _copied(module: nn.Module, name: str) -> nn.Module:
    """On the CPU, without gradients; values that a layer keeps from its last call come along."""
    kept: dict[int, object] = {}
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                kept[id(value)] = value.detach().clone()
    try:
        copied = copy.deepcopy(module, kept).cpu()
    except Exception as error:  # user code
        raise ModelError(
            f"the {name} cannot be copied ({type(error).__name__}: {one_line(error)}); what it "
            "keeps besides layers and tensors is in the way"
        ) from error
    copied.zero_grad(set_to_none=True)
    return copied


def _names_factory(source: str) -> bool:
    """Whether the text is ``file.py:factory`` or ``package.module:factory``, and no file."""
    return is_factory_spec(source.partition(",")[0]) and not Path(source).exists()


def _load_by_name(
    source: str, arch: str | None, num_classes: int | None, hints: InputHints, seed: int
) -> LoadedModel:
    if arch is not None:
        raise UsageError(f"'{source}' names its own architecture; leave --arch {arch} out")
    architecture = parse_architecture(source)
    network = build_network(architecture, num_classes=num_classes, seed=seed)
    warnings: tuple[str, ...] = ()
    if architecture.family != "factory" and not architecture.is_pretrained:
        warnings = (
            f"'{source}' has random weights, so its accuracy means nothing; write "
            f"{source},pretrained=true or give a checkpoint with --arch {source}",
        )
    hints = _with_architecture(hints, architecture, network, source)
    return _finished(source, architecture.name, network, hints, warnings=warnings)


def _load_state_dict(
    source: str,
    sets: tuple[WeightSet, ...],
    *,
    arch: str | None,
    num_classes: int | None,
    hints: InputHints,
    seed: int,
    wanted: str | None,
) -> LoadedModel:
    if arch is None:
        raise UsageError(
            f"'{source}' holds weights only; name their network with --arch timm:NAME, "
            "--arch torchvision:NAME or --arch package.module:factory"
        )
    for item in sets:
        check_weight_names(source, item.weights)
    architecture = parse_architecture(arch)

    @functools.cache
    def build(classes: int | None) -> nn.Module:
        keys = _names_without_prefixes(sets)
        return build_network(architecture, num_classes=classes, seed=seed, state_keys=keys)

    network = build(num_classes)
    infers = num_classes is None and "num_classes" not in architecture.options
    chosen = choose_weights(
        sets, network, source=source, arch=arch, wanted=wanted,
        with_classes=build if infers else None,
    )  # fmt: skip
    inferred = infer_num_classes(chosen.weights, network) if infers else None
    if inferred is not None:
        network = build(inferred)
    fill_network(network, chosen.weights, source=source, arch=arch)
    hints = _with_architecture(hints, architecture, network, source)
    warnings = chosen.notes + _half_note(chosen.weights.values())
    name = model_name(weights_file(Path(source)))
    return _finished(source, name, network, hints, warnings=warnings, weights=chosen.text)


def _names_without_prefixes(sets: Sequence[WeightSet]) -> set[str]:
    """Every name, and its ends, since what wraps a network puts prefixes before its names."""
    parts = (name.split(".") for item in sets for name in item.weights)
    return {".".join(words[place:]) for words in parts for place in range(min(len(words), 4))}


def _refuse_weights(source: str, weights: str | None) -> None:
    if weights is not None:
        raise UsageError(f"'{source}' holds one set of weights; leave --weights {weights} out")


def _finished(
    source: str,
    name: str,
    module: nn.Module,
    hints: InputHints,
    *,
    is_user_class: bool = True,
    warnings: tuple[str, ...] = (),
    weights: str = "",
) -> LoadedModel:
    _check_weights(source, module)
    half = _half_note(module.parameters())
    if half:
        module = module.float()
    if hints.published == Published():
        hints = replace(hints, published=published_preprocessing(module, None, source))
    preprocessing, assumed = find_preprocessing(module, hints)
    if math.prod(preprocessing.shape) > _MAX_IMAGE_NUMBERS:
        raise UsageError(
            f"images of {list(preprocessing.shape)} are more than can be worked with; give the "
            "size that the model was made for with --input-size"
        )
    return LoadedModel(
        name=name,
        module=module.eval(),
        is_user_class=is_user_class,
        preprocessing=preprocessing,
        sha256=sha256_of_tensors(module.state_dict()),
        source=source,
        warnings=warnings + half + assumed,
        inputs=tuple(hints.inputs),
        weights=weights,
    )


def _half_note(values: Iterable[object]) -> tuple[str, ...]:
    """Which precisions other than float32 there are, as a warning; none for none."""
    kinds = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    names = ", ".join(sorted(map(str, kinds - {torch.float32})))
    return (f"weights in {names} became float32",) if names else ()


def _with_architecture(
    hints: InputHints, architecture: Architecture, network: nn.Module, source: str
) -> InputHints:
    """With what the architecture's options and its library tell."""
    return replace(
        hints,
        image_size=image_size_from_option(architecture.options.get("img_size")),
        published=published_preprocessing(network, architecture, source),
        may_be_other=not architecture.is_pretrained,
    )


def _check_weights(source: str, module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.is_meta:
            raise ModelError(f"'{source}' has no values for '{name}'; save it with its weights")
        if not torch.isfinite(tensor).all():
            num_bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"'{name}' in '{source}' has {num_bad} of {tensor.numel()} values that are NaN or "
                "infinite; use a checkpoint from before the training diverged"
            )
    if not any(True for _ in module.parameters()):
        raise ModelError(f"'{source}' has no parameters; there is nothing to shrink")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(
            f"no model file '{path}'; give a path to one, timm:NAME, torchvision:NAME or "
            "file.py:factory"
        )
    try:
        with open_regular(path) as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"'{path}' is empty (0 bytes); copy or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"'{path}' is a Git LFS pointer, not the model; run git lfs pull")
    if path.suffix.lower() in _FOREIGN_KINDS:
        raise ModelError(
            f"'{path}' is {_FOREIGN_KINDS[path.suffix.lower()]}; give the PyTorch model behind it"
        )
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        raise ModelError(f"'{path}' is cut off: its end is missing; copy or save it again")


def _read_sets(path: Path, trust_pickle: bool) -> tuple[WeightSet, ...]:
    content = _read_content(path, trust_pickle)
    sets = find_weight_sets(content)
    for item in sets:
        name = quantised_name(item.weights, item.others)
        if item.module is not None and name is not None:
            raise quantised(path, name)
    if not sets:
        raise ModelError(
            f"'{path}' holds neither a module nor a dictionary of tensors{_keys_text(content)}; "
            "save the module, or its state_dict()"
        )
    return sets


def _keys_text(content: object) -> str:
    if not isinstance(content, Mapping):
        return f" but a {type(content).__name__}"
    return f"; its keys are {', '.join(str(key)[:40] for key in list(content)[:8]) or 'none'}"


def _read_content(path: Path, trust_pickle: bool) -> object:
    if is_index(path):
        return read_shards(path, lambda shard: _read_shard(shard, trust_pickle))
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    _reject_torchscript_and_strangers(path)
    return load_checkpoint(path, trust_pickle=trust_pickle)


def _read_shard(path: Path, trust_pickle: bool) -> Mapping[str, object]:
    _check_file(path)
    content = _read_content(path, trust_pickle)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ModelError(f"'{path}' holds no dictionary of tensors; copy or save it again")
    return content


def _reject_torchscript_and_strangers(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(1) != b"\x80":  # the first byte of every binary pickle
                raise ModelError(f"'{path}' is not a PyTorch checkpoint; save it with torch.save")
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.split("/", 1)[-1] for name in archive.namelist()]
    if "constants.pkl" in names:
        raise ModelError(
            f"'{path}' is a TorchScript archive, which cannot be rewritten; give the module it "
            "was made from (torch.save) or a torch.export.save file"
        )
    if "data.pkl" not in names:
        raise ModelError(f"'{path}' is a zip file but no PyTorch checkpoint; unpack it first")


def _read_safetensors(path: Path) -> Weights:
    try:
        safetensors = importlib.import_module("safetensors")
        reader = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ModelError(f"'{path}' needs safetensors; run pip install safetensors") from error
    try:
        return cast("Weights", reader.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(path, error) from error
