"""Checks a ``.pt2`` archive before torch reads it, because reading one can run code.

``torch.export.load`` unpickles some payloads without limits, evaluates symbolic sizes as Python
expressions, resolves operator names to any attribute of torch, and writes tensor names into
generated source. Everything that an honest export puts there has a narrow form; whatever has
another is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

from torch.serialization import get_unsafe_globals_in_checkpoint

from fairdeploy.errors import ModelError, UnsafePickleError

_NAME = re.compile(r"[\w.\-]*")
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\.sym_\w+|torch\._sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|getitem|eq|ne|lt|le|gt|ge"
    r"|and_|or_|not_|xor|abs|lshift|rshift)"
)
_SIZE_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        Symbol Integer Float Rational Add Mul Pow Mod PythonMod Min Max FloorDiv CleanDiv
        CeilDiv ModularIndexing Where Piecewise ToFloat TruncToInt FloorToInt CeilToInt
        RoundToInt IntTrueDiv FloatTrueDiv FloatPow PowByNatural Identity floor ceiling Eq Ne Lt
        Le Gt Ge Equality Unequality StrictLessThan StrictGreaterThan LessThan GreaterThan And
        Or Not Xor BooleanTrue BooleanFalse true false True False oo int_oo IntInfinity
        NegativeIntInfinity Infinity NegativeInfinity positive integer nonnegative negative real
        zero precision
        """,
    )
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
# All that an honest archive holds, under one top folder in the current format. The rest (compiled
# code, other runtimes) is refused.
_MEMBERS = {
    "text": re.compile(
        r"([^/]+/)?(models/[\w.\-]+\.json|data/\w+/[\w.\-]+_config\.json|serialized_\w+\.json)"
    ),
    "payload": re.compile(r"([^/]+/)?data/(weights|constants)/(weight|tensor)_\d+"),
    "pickle": re.compile(
        r"([^/]+/)?(data/(weights|constants|sample_inputs)/[\w.\-]+\.pt|serialized_\w+\.pt)"
    ),
    "note": re.compile(
        r"([^/]+/)?(archive_format|archive_version|byteorder|version|\.data/\w+|extra\w*/.*)"
    ),
}
_QUOTED_SYMBOL = re.compile(r"Symbol\('\w+'")
_SYMBOL_NAME = re.compile(r"[suzf]+\d+")
_SIZE_CHARACTERS = re.compile(r"[\w\s+\-*/%(),.<>=&|~\[\]]*")
# Stored, never evaluated: traces of the source, string arguments (quoted when printed), pytree
# layouts, and guards, which are left out when the module is rebuilt.
_FREE_TEXT_KEYS = frozenset(
    {"metadata", "as_string", "as_strings", "module_call_graph", "guards_code", "torch_version"}
    | {"in_spec", "out_spec", "dialect", "type_hint"}
)


def check_exported_program(path: Path) -> None:
    """Refuse an archive that holds anything but a plain graph and plain tensors.

    Raises:
        UnsafePickleError: Names the first thing that is out of place; nothing has run.
        ModelError: The archive breaks off.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            # Readers differ in which of two equal names they take, and in case.
            if len({member.lower() for member in members}) < len(members):
                raise _refusal(path, "two files of one name")
            tables = [m for m in members if _kind_of(m) == "text"]
            documents = {table: json.loads(archive.read(table)) for table in tables}
            for document in documents.values():
                _check_json(path, document, key="", free_text=False)
            pickled = set().union(*map(_pickled_payloads, documents.values()))
            for member in members:
                _check_member(path, archive, member, pickled)
    except (zipfile.BadZipFile, ValueError, EOFError, RecursionError) as error:
        raise ModelError(
            f"'{path}' is a damaged exported program; export and copy it again"
        ) from error


def _kind_of(member: str) -> str | None:
    return next((kind for kind, form in _MEMBERS.items() if form.fullmatch(member)), None)


def _check_member(
    path: Path, archive: zipfile.ZipFile, member: str, pickled_payloads: set[str]
) -> None:
    kind = _kind_of(member)
    if kind is None:
        raise _refusal(path, f"the file '{member}'")
    is_pickled = kind == "payload" and member.rpartition("/")[2] in pickled_payloads
    if (kind == "pickle" or is_pickled) and archive.getinfo(member).file_size:
        _check_pickled_tensors(path, archive, member)


def _check_pickled_tensors(path: Path, archive: zipfile.ZipFile, member: str) -> None:
    try:
        names = get_unsafe_globals_in_checkpoint(io.BytesIO(archive.read(member)))
    except Exception as error:  # whatever cannot be listed is not opened
        raise _refusal(path, f"'{member}', which cannot be checked") from error
    if names:
        raise _refusal(path, f"'{member}', which names {', '.join(sorted(names)[:4])}")


def _pickled_payloads(document: object) -> set[str]:
    """File names of the tensors that torch would unpickle."""
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        return set()
    entries = [entry for entry in document["config"].values() if isinstance(entry, dict)]
    return {str(entry.get("path_name")) for entry in entries if entry.get("use_pickle", True)}


def _check_json(path: Path, value: object, key: str, free_text: bool) -> None:
    if isinstance(value, dict):
        for name, child in value.items():
            if not free_text and not _NAME.fullmatch(name):
                raise _refusal(path, f"the name '{name[:60]}'")
            _check_json(path, child, name, free_text or name in _FREE_TEXT_KEYS)
    elif isinstance(value, list):
        for child in value:
            _check_json(path, child, key, free_text)
    elif isinstance(value, str) and not free_text:
        _check_text(path, value, key)


def _check_text(path: Path, text: str, key: str) -> None:
    if key == "path_name":  # other names mark objects that are unpickled in full
        is_plain = _PAYLOAD.fullmatch(text) is not None
    elif key == "expr_str":
        is_plain = _is_plain_size(text)
    elif key == "target" and not _NAME.fullmatch(text):
        is_plain = False
    elif key == "target" and text.startswith(("torch", "_operator", "math")):
        is_plain = _OPERATOR.fullmatch(text) is not None
    else:
        is_plain = _NAME.fullmatch(text) is not None
    if not is_plain:
        raise _refusal(path, f"'{text[:60]}' as its {key or 'text'}")


def _is_plain_size(text: str) -> bool:
    """Whether a symbolic size is arithmetic over symbols and known functions, and no more."""
    bare = _QUOTED_SYMBOL.sub("Symbol(s0", text)
    if not _SIZE_CHARACTERS.fullmatch(bare) or re.search(r"\.\s*[A-Za-z_]", bare):
        return False
    words = re.findall(r"[A-Za-z_]\w*", bare)
    return all(word in _SIZE_WORDS or _SYMBOL_NAME.fullmatch(word) for word in words)


def _refusal(path: Path, what: str) -> UnsafePickleError:
    return UnsafePickleError(
        f"'{path}' is not a plain exported program: it holds {what}; export it again with "
        "torch.export.save, or add --trust-pickle if you trust its author"
    )
