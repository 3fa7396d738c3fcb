"""One option: a field with its flag, key, check, default and line of help.

Command line, ``fairdeploy.toml``, its schema and the settings are all made of that field. Fields
are a dataclass's: pydantic's import would add 0.13 s to the 0.12 s that typer and rich take before
``--help`` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from fairdeploy.settings.toml import Form, Reader, Schema, form_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of an option, besides the field's name and type."""

    help: str
    reads: Reader
    name: str
    """The field's, where nothing else is said: flag and key are made of it."""
    flags: tuple[str, ...]
    """As typed; empty for a key that can only be written."""
    has_key: bool
    """Whether ``fairdeploy.toml`` may say it. Never whether to trust a pickle or a project: a
    folder that comes with a model must not be able to ask for it."""
    default: Any
    """What holds where nobody says anything; None where that depends on other options."""
    is_argument: bool
    """Whether it is typed without a flag, and must be."""
    metavar: str | None
    panel: str | None
    parse: Callable[[str, Any], Any]

    @property
    def parameter(self) -> str:
        """What Python calls it where it is typed."""
        return self.flags[0].partition("/")[0].removeprefix("--").replace("-", "_")

    @property
    def form(self) -> Form:
        """How values are typed and described."""
        return form_of(self.reads)

    def schema(self) -> Schema:
        """Of its key, for editors."""
        default = {} if self.default is None else {"default": self.default}
        return {"description": self.help, **self.form.schema, **default}


def option(help: str, reads: Reader, *, absent: Any = None, **more: Any) -> Any:
    """A field of an options class that can be typed, and written to ``fairdeploy.toml``.

    Args:
        help: The line of help, and the description in the schema.
        reads: What it takes, with its check: a reader of ``settings.toml`` or ``settings.values``.
        absent: The field's value where nothing is typed.
        more: Fields of ``Option`` that are not to follow from the field's name and reader.
    """
    return field(default=absent, metadata={"option": {"help": help, "reads": reads, **more}})


def argument(help: str, reads: Reader, **more: Any) -> Any:
    """A field that must be typed, without a flag; see ``option``."""
    said = {"help": help, "reads": reads, "has_key": False, "is_argument": True, **more}
    return field(metadata={"option": said})


def options_of(kind: type) -> dict[str, Option]:
    """The options of a class by the names of their fields, in the order of the fields."""
    return dict(_options(kind))


def _options(kind: type) -> Iterator[tuple[str, Option]]:
    for item in fields(kind):
        if "option" in item.metadata:
            said: dict[str, Any] = dict(item.metadata["option"])
            name = said.setdefault("name", item.name)
            said.setdefault("flags", (f"--{name.replace('_', '-')}",))
            said.setdefault("parse", form_of(said["reads"]).parse)
            blank: dict[str, Any] = {"default": None, "metavar": None, "panel": None}
            blank |= {"has_key": True, "is_argument": False}
            yield item.name, Option(**blank | said)


def keys_of(kind: type) -> dict[str, Option]:
    """Those that ``fairdeploy.toml`` may say, by their keys."""
    return {option.name: option for option in options_of(kind).values() if option.has_key}


def completed(options: Any, written: Any) -> Any:
    """``options`` with what ``written`` says, else the default, where nothing was typed.

    Args:
        options: Of an options class; a field that has the value of an absent one was not typed.
        written: An attribute for each key, None for absent ones.
    """
    changes: dict[str, Any] = {}
    absent = {item.name: item.default for item in fields(options) if item.default is not MISSING}
    for name, known in options_of(type(options)).items():
        if known.has_key and getattr(options, name) is absent[name]:
            value = getattr(written, known.name)
            changes[name] = next((v for v in (value, known.default) if v is not None), absent[name])
    return replace(options, **changes)
