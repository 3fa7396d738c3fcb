"""Builds a network from its name: ``timm:NAME``, ``torchvision:NAME`` or ``module:factory``.

Options follow the name: ``timm:deit_tiny_patch16_224,img_size=32,depths=(2,2)``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Collection
from typing import cast

from torch import nn

from fairdeploy.errors import ModelError
from fairdeploy.inputs.factories import load_factory, one_line
from fairdeploy.inputs.random_state import seeded_random_state
from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from fairdeploy.records.architecture import Architecture, Options


def build_network(
    architecture: Architecture,
    *,
    num_classes: int | None,
    seed: int,
    state_keys: Collection[str] = (),
) -> nn.Module:
    """Make the module with seeded weights, on the CPU, in eval mode.

    Args:
        architecture: What to build.
        num_classes: Passed on where given; the library's own default otherwise.
        seed: Of the random weights; the caller's random state stays as it was.
        state_keys: Names of the weights that will be loaded, which tell optional parts apart.

    Raises:
        ModelError: There is no such architecture, or building it fails.
    """
    options = dict(architecture.options)
    if num_classes is not None:
        options["num_classes"] = num_classes
    builders = {"timm": _build_timm, "torchvision": _build_torchvision, "factory": _build_user}
    with seeded_random_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = builders[architecture.family](architecture, options, state_keys)
    return module.eval()


def _build_timm(arch: Architecture, options: Options, _: Collection[str]) -> nn.Module:
    ensure_torchvision()
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"'{arch.text}' needs timm; run pip install timm") from error
    if not timm.is_model(arch.name):
        hint = _closest(arch.name, timm.list_models()) or "see timm.list_models()"
        raise ModelError(f"timm {timm.__version__} has no model '{arch.name}'; {hint}")
    try:
        # Zero-initialised last norms would make every random-weight residual branch a no-op.
        return cast(
            "nn.Module", timm.create_model(arch.name, **{"zero_init_last": False, **options})
        )
    except TypeError as error:
        if "zero_init_last" not in str(error):
            raise _build_failure(arch, error) from error
    except Exception as error:  # timm and its hub client raise many types
        raise _build_failure(arch, error) from error
    try:
        return cast("nn.Module", timm.create_model(arch.name, **options))
    except Exception as error:
        raise _build_failure(arch, error) from error


def _build_torchvision(
    arch: Architecture, options: Options, state_keys: Collection[str]
) -> nn.Module:
    ensure_torchvision()
    models = importlib.import_module("torchvision.models")
    if arch.name not in models.list_models():
        hint = _closest(arch.name, models.list_models()) or "see its models.list_models()"
        raise ModelError(f"torchvision has no model '{arch.name}'; {hint}")
    if options.pop("pretrained", False):
        options["weights"] = "DEFAULT"
    elif arch.name in ("googlenet", "inception_v3"):
        # Auxiliary heads serve training only; their slow default initialisation is not needed.
        has_heads = any(key.startswith(("aux", "AuxLogits")) for key in state_keys)
        options = {"aux_logits": has_heads, "init_weights": False, **options}
    try:
        network = models.get_model(arch.name, **options)
    except Exception as error:  # torchvision and its download client raise many types
        raise _build_failure(arch, error) from error
    assert isinstance(network, nn.Module)
    return network


def _build_user(arch: Architecture, options: Options, _: Collection[str]) -> nn.Module:
    factory = load_factory(arch.name, ModelError)
    if "num_classes" not in arch.options and not accepts_argument(factory, "num_classes"):
        options.pop("num_classes", None)
    try:
        network = factory(**options)
    except Exception as error:  # user code
        raise _build_failure(arch, error) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"'{arch.name}' returned a {type(network).__name__}; it must return a torch.nn.Module"
        )
    return network.cpu()


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def accepts_argument(function: object, name: str) -> bool:
    """Whether a callable takes a keyword argument of this name."""
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return takes_any or name in parameters


def _build_failure(arch: Architecture, error: Exception) -> ModelError:
    if arch.is_pretrained:
        return ModelError(
            f"the pretrained weights of '{arch.name}' cannot be had ({one_line(error, 120)}); "
            "check the network connection, or download them and give the file with --arch"
        )
    return ModelError(
        f"building '{arch.text}' fails with {type(error).__name__}: {one_line(error)}; "
        "check the options after its name"
    )
