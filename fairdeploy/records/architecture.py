"""Which network an ``--arch`` text names."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from fairdeploy.errors import UsageError

Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What an ``--arch`` text says."""

    text: str
    family: str
    """``timm``, ``torchvision`` or ``factory``."""
    name: str
    options: Options = field(default_factory=dict)

    @property
    def is_pretrained(self) -> bool:
        """Whether the library's own trained weights are asked for."""
        return bool(self.options.get("pretrained"))


def parse_architecture(text: str) -> Architecture:
    """Read ``family:name,key=value,…``.

    Raises:
        UsageError: The text has none of the three forms.
    """
    head, *assignments = _split_outside_brackets(text.strip())
    family, _, name = head.partition(":")
    options = dict(_parse_option(text, assignment) for assignment in assignments)
    if family in ("timm", "torchvision") and name:
        return Architecture(text, family, name, options)
    if is_factory_spec(head):
        return Architecture(text, "factory", head, options)
    raise UsageError(
        f"'{text}' is not an architecture; use timm:NAME, torchvision:NAME, "
        "package.module:factory or path/to/file.py:factory"
    )


def _split_outside_brackets(text: str) -> list[str]:
    return re.split(r",(?![^()\[\]]*[)\]])", text)


def _parse_option(text: str, assignment: str) -> tuple[str, object]:
    key, equals, value = (part.strip() for part in assignment.partition("="))
    if not equals or not key.isidentifier():
        raise UsageError(f"'{assignment}' in '{text}' is not an option; write key=value")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def is_factory_spec(spec: str) -> bool:
    """Whether ``spec`` reads as ``module:name`` or ``file.py:name``."""
    module, _, name = spec.rpartition(":")
    return bool(module) and name.isidentifier()
