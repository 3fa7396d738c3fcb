"""Options of ``settings.options`` as options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from fairdeploy.settings.option import Option, options_of
from fairdeploy.settings.toml import LARGEST


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, with each option of its parameter ``options`` as an option of its own."""
    hints = get_type_hints(command, include_extras=True)
    kind = hints.pop("options")
    offered = typed_options(kind)
    untyped = {field.name: field.default for field in fields(kind)}

    @functools.wraps(command)
    def flattened(**values: Any) -> None:
        given = {name: values.pop(option.parameter) for name, option in offered.items()}
        # Of a switch that is off nobody knows whether it was typed, but where off is a word too.
        typed = {
            name: offered[name].parse(offered[name].flags[0], value)
            for name, value in given.items()
            if value not in (None, []) and (value is not False or untyped[name] is None)
        }
        command(**values, options=kind(**typed))

    parameters = [
        inspect.Parameter(
            option.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=_annotation(option),
            default=_default(option, is_optional=untyped[name] is None),
        )
        for name, option in offered.items()
    ]
    own = inspect.signature(command).parameters
    parameters += [own[name].replace(annotation=hints[name]) for name in own if name in hints]
    signature = inspect.Signature(parameters, return_annotation=None)
    # Some versions of typer read the signature, some the annotations.
    flattened.__dict__["__signature__"] = signature
    flattened.__annotations__ = {item.name: item.annotation for item in parameters}
    return flattened


def typed_options(kind: type) -> dict[str, Option]:
    """Those that can be typed; what a class adds comes first: the help is read from the top."""
    order = [name for owner in kind.__mro__ for name in vars(owner).get("__annotations__", ())]
    known = options_of(kind)
    hidden = options_of(kind.UNTYPED) if hasattr(kind, "UNTYPED") else {}
    return {n: known[n] for n in order if n in known and known[n].flags and n not in hidden}


def _default(option: Option, *, is_optional: bool) -> Any:
    if option.is_argument:
        return inspect.Parameter.empty
    return False if option.form.typed is bool and not is_optional else None


def _annotation(option: Option) -> Any:
    form = option.form
    if option.is_argument:
        return Annotated[form.typed, typer.Argument(help=option.help, metavar=option.metavar)]
    least, most = (form.schema.get(key) for key in ("minimum", "maximum"))
    is_number = form.typed in (int, float)
    return Annotated[
        form.typed | None,
        typer.Option(
            *option.flags,
            metavar=option.metavar or "|".join(form.schema.get("enum", ())) or None,
            help=option.help,
            min=least if is_number and least != -LARGEST else None,
            max=most if is_number and most != LARGEST and form.typed is int else None,
            rich_help_panel=option.panel,
        ),
    ]
