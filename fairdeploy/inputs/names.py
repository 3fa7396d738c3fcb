"""Names that files give to modules and weights, checked because tracing writes them into source.

torch.fx writes ``self.features.conv`` for a plain name and ``getattr(self, "…")`` for any other,
without escaping it: a name with a quote in it is code. Python reads what it takes for one name in
several spellings, too (``ﬁt`` is ``fit``), and some names of a module are looked up when it is
copied, saved or called.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

from torch import nn

from fairdeploy.errors import ModelError

# Digits name the children of a Sequential; keys of a ModuleDict may begin with one, or have dashes.
_PLAIN_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]*")
_MAX_PART = 128
_MAX_WHOLE = 512
_SHOWN = 100


def is_plain_part(name: object) -> bool:
    """Whether ``name`` may name a child, a tensor or an attribute of one module."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_PART:
        return False
    if keyword.iskeyword(name) or (name.startswith("__") and name.endswith("__")):
        return False
    if _PLAIN_PART.fullmatch(name):
        return True
    return name.isidentifier() and unicodedata.normalize("NFKC", name) == name


def is_plain_name(name: object) -> bool:
    """Whether all parts of a dotted name are plain."""
    if not isinstance(name, str) or len(name) > _MAX_WHOLE:
        return False
    return all(is_plain_part(part) for part in name.split("."))


def shown(name: object) -> str:
    """A name that may hold anything, for one line of an error message."""
    text = name if isinstance(name, str) else repr(type(name))
    escaped = ascii(text[: _SHOWN + 1])[1:-1]
    return escaped if len(text) <= _SHOWN else f"{escaped[:_SHOWN]}…"


def check_weight_names(source: str, names: Iterable[object]) -> None:
    """Refuse weights that are not named like weights.

    Raises:
        ModelError: Names the first.
    """
    for name in names:
        if not is_plain_name(name):
            raise ModelError(f"'{source}' names a tensor '{shown(name)}'; {NAMES_ALLOWED}")


def check_module_names(source: str, module: nn.Module) -> None:
    """Refuse a module with a child, parameter or buffer whose name is not plain.

    Raises:
        ModelError: Names the first.
    """
    for child in module.modules():
        for name in (*child._modules, *child._parameters, *child._buffers):
            if not is_plain_part(name):
                raise ModelError(
                    f"'{source}' names a part of its {type(child).__name__} '{shown(name)}'; "
                    f"{NAMES_ALLOWED}"
                )


NAMES_ALLOWED = (
    "names are letters, digits and underscores, joined by dots, and no word of Python's own; "
    "rename it and save again"
)
