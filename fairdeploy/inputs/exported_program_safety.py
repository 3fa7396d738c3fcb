"""Makes a clean copy of a ``.pt2`` archive for torch to read, because reading one can run code.

What ``torch.export.load`` and ``ExportedProgram.module()`` evaluate, and what becomes of it here:

* pickles: sample inputs, tensors with ``use_pickle``, whole state dicts of earlier formats (all
  without limits): read by ``PickleMachine`` and written anew;
* custom and opaque objects (unpickled in full), compiled code: refused;
* symbolic sizes (``sympify``, which is ``eval``): arithmetic over symbols and known functions only,
  small powers only, since it is computed at once;
* operators (any attribute of torch, ``operator`` and ``math`` by name, called when the graph runs):
  tensor operators of ATen and torchvision that touch no file, control flow, size arithmetic;
* names of inputs and values, ``forward_arg_names`` and keyword names of ``in_spec`` (written into
  source as they are): identifiers;
* names of weights and constants (written into source too): dotted identifiers;
* ``in_spec`` and ``out_spec`` (a ``defaultdict``'s factory and enums in a context are imported by
  name): tuples, lists, dictionaries, and types that torch, torchvision or timm registered;
* guards (source): dropped; ``source_fn_stack`` (any attribute of torch by name), ``from_node``,
  ``custom`` and other notes of the nodes: dropped, except for traces of the source and of modules;
* ranges of symbols (it counts up to the number in an unbacked symbol's name): small numbers;
* sizes of empty tensors and of constants (taken at once): within the archive.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fairdeploy.errors import ModelError, UnsafePickleError
from fairdeploy.inputs.archives import ZIP_ERRORS, opened_archive
from fairdeploy.inputs.names import is_plain_name, is_plain_part, shown
from fairdeploy.inputs.pickle_machine import NotAllowed
from fairdeploy.inputs.pickled_values import Refused
from fairdeploy.inputs.torch_files import read_zip

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
    "note": re.compile(r"([^/]+/)?(archive_format|archive_version|byteorder|version|\.data/\w+)"),
    "extra": re.compile(r"([^/]+/)?extra\w*/.*"),
}
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_SYMBOL = re.compile(r"[suzf]+\d{1,4}")
_KEPT_NOTES = ("nn_module_stack", "stack_trace")
_DROPPED: dict[str, Any] = {"guards_code": [], "treespec_namedtuple_fields": {}}
_REFUSED_KEYS = ("as_operator", "as_custom_obj", "custom_obj", "token")
_KEYED_BY_NAMES = frozenset(
    ("config", "tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values")
)
# Written into source, or looked up as attributes.
_VALUE_NAMES = frozenset(("name", "as_name", "user_input_name"))
_TENSOR_NAMES = frozenset(
    ("parameter_name", "buffer_name", "tensor_constant_name", "fqn", "path_name")
)
_FREE_TEXT = frozenset(("as_string", "as_strings", "torch_version", "dialect", *_KEPT_NOTES))
_WORD = re.compile(r"[\w.\-]*", re.ASCII)

_FREE_ELEMENTS = 2**24
_MAX_SIZE_TEXT = 2_000
_MAX_POWER = 8
_MAX_POWERS = 4
_SIZE_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        Symbol Integer Float Rational Add Mul Pow Mod PythonMod Min Max FloorDiv CleanDiv
        CeilDiv ModularIndexing Where Piecewise ToFloat TruncToInt FloorToInt CeilToInt
        RoundToInt IntTrueDiv FloatTrueDiv FloatPow PowByNatural Identity floor ceiling Eq Ne Lt
        Le Gt Ge Equality Unequality StrictLessThan StrictGreaterThan LessThan GreaterThan And
        Or Not Xor
        """,
    )
)
_SIZE_CONSTANTS = frozenset(
    ("BooleanTrue", "BooleanFalse", "true", "false", "oo", "int_oo", "IntInfinity")
) | frozenset(("NegativeIntInfinity", "Infinity", "NegativeInfinity"))
_POWERS = frozenset(("Pow", "FloatPow", "PowByNatural"))
_SIZE_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword,
    ast.Name, ast.Constant, ast.Tuple, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip

_SIZE_OPERATOR = re.compile(
    r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|truediv|and_|or_|getitem)"
    r"|torch\.sym_(not|int|float|ite|max|min|sqrt)|torch\._sym_sqrt|math\.(trunc|floor|ceil)"
)
_CONTROL_FLOW = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(\w+)\.(\w+)", re.ASCII)
# They touch files, print, or reach memory that no tensor holds, since they check no indices.
_OPERATORS_WITH_EFFECTS = re.compile(
    r"from_file|save|_?print|warn|set_|\w*(resize|storage|sparse|nested|jagged|_coo|_csr|fbgemm)\w*"
    r"|\w*unsafe(?!_(index|view|split|chunk|masked))\w*"
)
# They take memory for as many numbers as they are told, whatever goes in.
_MADE_OF_NOTHING = re.compile(
    r"full|zeros|ones|empty\w*|rand\w*|new_\w+|arange|iota|l\w+space|eye|\w+_indices"
)
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_KNOWN_LIBRARIES = ("torch.", "torchvision.", "timm.")
_MAX_TREE = 50


class _Odd(Exception):
    """What the archive holds that a plain one does not."""


def clean_program(path: Path) -> io.BytesIO:
    """The archive at ``path`` with nothing in it but a plain graph and plain tensors.

    Raises:
        UnsafePickleError: Names the first thing that is out of place; nothing has run.
        ModelError: The archive breaks off.
    """
    try:
        with opened_archive(path, UnsafePickleError) as archive:
            return _copied(archive)
    except _Odd as error:
        raise UnsafePickleError(
            f"'{path}' is not a plain exported program: it holds {error}; export it again with "
            "torch.export.save, or add --trust-pickle if you trust its author"
        ) from error
    except (*ZIP_ERRORS, TypeError, AttributeError) as error:
        raise ModelError(
            f"'{path}' is a damaged exported program; export and copy it again"
        ) from error


def _copied(archive: zipfile.ZipFile) -> io.BytesIO:
    kinds = {info.filename: _kind_of(info.filename) for info in archive.infolist()}
    documents = {name: _document(archive.read(name)) for name in kinds if kinds[name] == "text"}
    pickled = set().union(*map(_pickled_payloads, documents.values()))
    clean = io.BytesIO()
    with zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as copy:
        for name, kind in kinds.items():
            if kind == "text":
                copy.writestr(name, json.dumps(_clean_document(archive, name, documents[name])))
            elif kind == "pickle" or name.rpartition("/")[2] in pickled:
                copy.writestr(name, _clean_pickle(name, archive.read(name)))
            elif kind != "extra":
                copy.writestr(name, archive.read(name))
    clean.seek(0)
    return clean


def _kind_of(member: str) -> str:
    kind = next((kind for kind, form in _MEMBERS.items() if form.fullmatch(member)), None)
    if kind is None:
        raise _Odd(f"the file '{shown(member)}'")
    return kind


def _document(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a table")
    return found


def _clean_pickle(member: str, content: bytes) -> bytes:
    if not content:
        return content
    try:
        found = read_zip(io.BytesIO(content), len(content))
    except NotAllowed as error:
        raise _Odd(f"'{member}', which names {shown(str(error))}") from error
    except (Refused, ModelError, *ZIP_ERRORS) as error:
        raise _Odd(f"'{member}', which cannot be checked ({error})") from error
    if not _is_data(found):
        raise _Odd(f"'{member}', which is more than tensors")
    written = io.BytesIO()
    torch.save(found, written)
    return written.getvalue()


def _is_data(value: object, depth: int = 0) -> bool:
    """Whether sample inputs or weights are tensors and numbers in plain containers."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return depth < _MAX_TREE and all(_is_data(item, depth + 1) for item in value)
    kinds = (Tensor, str, bool, int, float, type(None), torch.dtype, torch.device)
    return isinstance(value, kinds)


def _pickled_payloads(document: dict[str, Any]) -> set[str]:
    """File names of the tensors that torch would unpickle."""
    table = document.get("config")
    entries = table.values() if isinstance(table, dict) else ()
    return {str(entry.get("path_name")) for entry in entries if entry.get("use_pickle", True)}


def _clean_document(archive: zipfile.ZipFile, name: str, document: dict[str, Any]) -> object:
    if isinstance(document.get("config"), dict):
        for entry in document["config"].values():
            _check_payload(archive, name.rpartition("/")[0], entry)
    for symbol in document.get("range_constraints") or {}:
        if not _SYMBOL.fullmatch(symbol):
            raise _Odd(f"the range of '{shown(symbol)}'")
    return _clean(document, "")


def _check_payload(archive: zipfile.ZipFile, folder: str, entry: Any) -> None:
    """Refuse a tensor that is larger than its file: torch takes memory for it, or reads on."""
    if not _PAYLOAD.fullmatch(str(entry["path_name"])):  # others are unpickled in full
        raise _Odd(f"'{shown(entry['path_name'])}' as its path_name")
    if entry.get("use_pickle", True):
        return
    told, num_bytes = (
        entry["tensor_meta"],
        archive.getinfo(f"{folder}/{entry['path_name']}").file_size,
    )
    sizes = [_constant_size(size) for size in told["sizes"]]
    steps = [_constant_size(step) for step in told["strides"]]
    last = _constant_size(told["storage_offset"]) + sum(
        (size - 1) * step for size, step in zip(sizes, steps, strict=True)
    )
    if math.prod(sizes) and (last >= num_bytes or math.prod(sizes) > num_bytes + _FREE_ELEMENTS):
        raise _Odd(f"a tensor of {sizes} in {num_bytes:,} bytes")


def _constant_size(told: Any) -> int:
    size = told.get("as_int")
    if type(size) is not int or size < 0:
        raise _Odd("a weight without a fixed size")
    return size


def _clean(value: Any, key: str) -> Any:
    """``value`` of ``key``, with all that is dropped left out."""
    if isinstance(value, dict):
        clean = _clean_named if key in _KEYED_BY_NAMES else _clean_entry
        return {name: clean(value, name) for name in value}
    if isinstance(value, list):
        return [_clean(item, key) for item in value]
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _clean_named(table: dict[str, Any], name: str) -> Any:
    if not is_plain_name(name):
        raise _Odd(f"the name '{shown(name)}'")
    return _clean(table[name], "")


def _clean_entry(table: dict[str, Any], name: str) -> Any:
    value = table[name]
    if name in _DROPPED:
        return _DROPPED[name]
    if name in _REFUSED_KEYS or (name == "custom_obj_values" and value):
        raise _Odd(f"an argument '{name}'")
    if name == "metadata":
        return {note: _printable(str(value[note])) for note in _KEPT_NOTES if note in value}
    if name == "module_call_graph":
        return [_clean_call(entry) for entry in value if entry["fqn"] == ""]
    if name in ("in_spec", "out_spec"):
        return value and _clean_tree(value, is_input=name == "in_spec")
    if name == "target" and "inputs" in table:
        _check_operator(table)
        return value
    if _WORD.fullmatch(name) is None:
        raise _Odd(f"the key '{shown(name)}'")
    return _clean(value, name)


def _printable(text: str) -> str:
    """Without what could move a terminal's cursor."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n")


def _clean_call(entry: dict[str, Any]) -> dict[str, Any]:
    names = (entry["signature"] or {}).get("forward_arg_names") or []
    for name in names:
        if not (is_plain_part(name) and name.isidentifier()):
            raise _Odd(f"'{shown(name)}' as one of its forward_arg_names")
    rest = {name: value for name, value in entry.items() if name != "signature"}
    told = {n: v for n, v in (entry["signature"] or {}).items() if n != "forward_arg_names"}
    signature = entry["signature"] and {**_clean(told, "signature"), "forward_arg_names": names}
    return {**_clean(rest, "entry"), "signature": signature}


def _check_text(text: str, key: str) -> None:
    if key in _FREE_TEXT:
        return
    if key == "expr_str":
        is_plain = is_plain_size(text)
    elif key in _VALUE_NAMES:
        is_plain = text == "" or (is_plain_part(text) and text.isidentifier())
    elif key in _TENSOR_NAMES:
        is_plain = text == "" or is_plain_name(text)
    else:
        is_plain = _WORD.fullmatch(text) is not None
    if not is_plain:
        raise _Odd(f"'{shown(text)}' as its {key or 'text'}")


def is_plain_size(text: str) -> bool:
    """Whether a symbolic size is arithmetic over symbols and known functions, and no more."""
    if len(text) > _MAX_SIZE_TEXT:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    powers = [node for node in nodes if _power_of(node)]
    return len(powers) <= _MAX_POWERS and all(_is_plain_node(node) for node in nodes)


def _power_of(node: ast.AST) -> list[ast.expr]:
    """Base and exponent, if it is a power."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return [node.left, node.right]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
        return node.args
    return []


def _is_plain_node(node: ast.AST) -> bool:
    power = _power_of(node)
    if power and not (len(power) == 2 and _is_small_number(power[1])):
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS
    if isinstance(node, ast.Name):
        known = node.id in _SIZE_FUNCTIONS | _SIZE_CONSTANTS
        return known or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        is_number = isinstance(node.value, int | float) and abs(node.value) < 2**64
        return is_number or (isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value)))
    return isinstance(node, _SIZE_NODES) and not isinstance(node, ast.LShift | ast.MatMult)


def _is_small_number(node: ast.AST) -> bool:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        if isinstance(node, ast.Call) and len(node.args) == 1:  # Integer(2)
            return _is_small_number(node.args[0])
        return False
    return isinstance(value, int | float) and abs(value) <= _MAX_POWER


def _check_operator(node: dict[str, Any]) -> None:
    target = str(node["target"])
    if _SIZE_OPERATOR.fullmatch(target) or _CONTROL_FLOW.fullmatch(target):
        return
    found = _OPERATOR.fullmatch(target)
    has_effects = found is not None and _OPERATORS_WITH_EFFECTS.fullmatch(found[2])
    if found is None or has_effects or not _is_operator(*found.groups()):
        raise _Odd(f"'{shown(target)}' as its target")
    if _MADE_OF_NOTHING.fullmatch(found[2]) and _largest_made(node["inputs"]) > _FREE_ELEMENTS:
        raise _Odd(f"a call of {target} for more than {_FREE_ELEMENTS:,} numbers")


def _is_operator(library: str, name: str, overload: str) -> bool:
    packet = getattr(getattr(torch.ops, library), name, None)
    return isinstance(getattr(packet, overload, None), torch._ops.OpOverload)


def _largest_made(inputs: list[Any]) -> int:
    """The most numbers that the constant arguments can stand for."""
    given = [argument["arg"] for argument in inputs]
    lists = [one["as_ints"] for one in given if "as_ints" in one]
    lists += [
        [item.get("as_int", 1) for item in one["as_sym_ints"]]
        for one in given
        if "as_sym_ints" in one
    ]
    lists += [[one["as_int"]] for one in given if "as_int" in one]
    return max([0, *(math.prod(abs(int(number)) for number in numbers) for numbers in lists)])


def _clean_tree(text: str, *, is_input: bool) -> str:
    protocol, tree = json.loads(text)
    if protocol != 1:
        raise ValueError("an unknown kind of tree")
    for place, node in enumerate(_nodes_of_tree(tree)):
        _check_tree_node(node, is_input=is_input)
        if place > 10_000:
            raise _Odd("a nest of inputs or outputs without end")
    return json.dumps([protocol, tree])


def _nodes_of_tree(tree: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > _MAX_TREE:
        raise _Odd("a nest of inputs or outputs that is too deep")
    yield tree
    for child in tree["children_spec"]:
        yield from _nodes_of_tree(child, depth + 1)


def _check_tree_node(node: dict[str, Any], *, is_input: bool) -> None:
    kind, context = node["type"], node["context"]
    if kind is None and context is None and not node["children_spec"]:
        return
    if kind not in _TREES and not _is_known_type(kind if kind != _NAMED_TUPLE else context):
        raise _Odd(f"the type '{shown(kind)}' ({shown(context)}) among its inputs or outputs")
    if kind == _NAMED_TUPLE:
        return
    keys = json.loads(context) if isinstance(context, str) else context
    for key in keys if isinstance(keys, list) else ():
        is_name = isinstance(key, str) and is_plain_part(key) and key.isidentifier()
        is_text = isinstance(key, str) and key.isprintable() and len(key) <= 256 and not is_input
        if not (is_name or is_text or type(key) is int):
            raise _Odd(f"the key '{shown(key)}' among its inputs or outputs")
    if keys is not None and not isinstance(keys, list):
        raise _Odd(f"the context '{shown(context)}' among its inputs or outputs")


def _is_known_type(name: object) -> bool:
    """Whether torch, torchvision or timm registered a type of that name, by itself."""
    is_theirs = isinstance(name, str) and name.startswith(_KNOWN_LIBRARIES)
    return is_theirs and name in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE


_NAMED_TUPLE = "collections.namedtuple"
