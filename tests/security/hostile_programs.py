"""Exported programs (``.pt2``) that would run code or take memory while torch reads them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.security.pickle_programs import COMMAND, PYTHON, call, checkpoint, text

Members = dict[str, bytes]
Edit = Callable[[Members], None]
Document = dict[str, Any]

_EVAL = f"__import__('os').system('{COMMAND}')"


def honest_program() -> bytes:
    """A small network with a batch of any size, a constant and two kinds of layers."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.conv(images).relu().mean((2, 3))
            scores: torch.Tensor = self.head(pooled * torch.tensor([1.0, 2.0, 1.0, 1.0]))
            return scores

    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def members_of(archive: bytes) -> Members:
    """Names and contents."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archive_of(members: Members) -> bytes:
    """The archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _in_model(change: Callable[[Document], None]) -> Edit:
    return _in_table("models/model.json", change)


def _in_table(ending: str, change: Callable[[Document], None]) -> Edit:
    def edit(members: Members) -> None:
        name = next(name for name in members if name.endswith(ending))
        document = json.loads(members[name])
        change(document)
        members[name] = json.dumps(document).encode()

    return edit


def _graph(document: Document) -> Document:
    graph: Document = document["graph_module"]["graph"]
    return graph


def _signature(document: Document) -> Document:
    entry = next(e for e in document["graph_module"]["module_call_graph"] if e["fqn"] == "")
    signature: Document = entry["signature"]
    return signature


def _rename_input(new: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        renamed = json.dumps(document).replace('"images"', json.dumps(new))
        document.clear()
        document.update(json.loads(renamed))

    return change


def _rename_weight(new: str) -> Edit:
    def edit(members: Members) -> None:
        for name in members:
            if name.endswith(".json"):
                old, told = b'"conv.weight"', json.dumps(new).encode()
                members[name] = members[name].replace(old, told)

    return edit


def _tree(kind: object, context: object, children: int = 1) -> str:
    leaf: Document = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf] * children}])


_SIZES = (
    _EVAL, "().__class__", "s0.func", "exec('x')", "open('RAN')", "(lambda: 1)()", "[s0][0]",
    "s0 if s0 else s0", "'x'.join('y')", "f'{s0}'", "10**10**10", "9**9**9**9**9",
    "Pow(10, Pow(10, 10))", "Pow(Pow(Pow(Pow(Pow(9, 8), 8), 8), 8), 8)", "1 << 10**10",
    "Symbol('x', commutative=exec('x'))", "Symbol(\"s0');exec('x\")", "factorial(10**9)",
    "Integer('" + _EVAL + "')", "S('x')", "sympify('x')", "eval('x')", "N(1)", "((" * 500,
    "s0" * 3_000, "", "s0;s0", "s0\n", "_", "__builtins__", "Float('1e999999999')", "0" * 5_000,
)  # fmt: skip
_NAMES = (
    "x=print(1)", "x, y=exec('1')", 'x"', "x\ny", "x\0", "\ud800", "class", "x y", "x:exec('1')",
    "__import__", "ﬁ", "x" * 300, "x#", "*x", "x.y",
)  # fmt: skip
_OPERATORS = (
    "torch.os.system", "torch.ops.load_library", "torch.ops.load_library.__call__",
    "torch.ops.import_module.__call__", "torch.ops.__class__.__init__", "os.system",
    "torch.ops.aten.from_file.default", "torch.ops.aten.__class__.mro", "torch.load.__call__",
    "torch.ops.aten.__getattr__.__func__", "torch.ops.aten._print.default", "math.__loader__.name",
    "torch.ops.image.write_file.default", "torch.ops.image.read_file.default", "_operator.call",
    "torch.ops.debugprims.load_tensor.default", "torch.ops.higher_order.print", "math.factorial",
    "torch.ops.higher_order.triton_kernel_wrapper_mutation", "torch.hub.load", "_operator.pow",
    "torch.ops.aten.set_.source_Tensor", "torch.ops.symm_mem.one_shot_all_reduce.default",
    "torch.ops.aten._sparse_coo_tensor_unsafe.default", "torch.ops.aten.resize_.default",
    "torch.ops.aten._nested_view_from_buffer.default", "torch.ops.aten.resize.default",
    "torch.sys.exit", "torch._sys.exit", "#x:y", "builtins.exec", "_operator.methodcaller",
    "torch.utils.cpp_extension.load_inline", "torch.ops.aten.conv2d", "torch.ops.aten.x.default",
    "torch.ops.c10d.barrier.default", "_operatorx.add", "mathx.floor", "torchx.load", "",
)  # fmt: skip
_TREES = (
    _tree(
        "collections.defaultdict",
        {"default_factory_module": "evil", "default_factory_name": "x", "dict_context": ["a"]},
    ),
    _tree("builtins.dict", json.dumps([{"__enum__": True, "fqn": "evil:X", "name": "A"}])),
    _tree("builtins.dict", json.dumps({"__enum__": True, "fqn": "evil:X", "name": "A"})),
    _tree("builtins.tuple", json.dumps({"__enum__": True, "fqn": "evil:X", "name": "A"})),
    _tree("collections.deque", json.dumps({"__enum__": True, "fqn": "evil:X", "name": "A"})),
    _tree("collections.namedtuple", "os.system"),
    _tree("os.system", "null"),
    _tree("evil.Output", json.dumps(["a"])),
    _tree(None, "null"),
    "[1, []]",
    "[1]",
    "[99, {}]",
    "{}",
    "x",
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": ' * 200,
)  # fmt: skip


def _hostile_edits() -> Iterator[tuple[str, Edit]]:
    for number, size in enumerate(_SIZES):
        told = {"as_expr": {"expr_str": size, "hint": {"as_int": 2}}}

        def in_tensor(document: Document, told: Document = told) -> None:
            next(iter(_graph(document)["tensor_values"].values()))["sizes"][0] = told

        label = "size that is code" if size == _EVAL else f"size {number}: {ascii(size)[:30]}"
        yield label, _in_model(in_tensor)
    for name in _NAMES:
        shown = ascii(name)[:20]
        yield f"input {shown}", _in_model(_rename_input(name))
        yield (
            f"weight {shown}",
            _rename_weight(name + "')" if name in ("x.y", "__import__", "ﬁ") else name),
        )

        def in_forward(document: Document, name: str = name) -> None:
            _signature(document)["forward_arg_names"] = [name]

        if name != "__import__":
            yield f"forward_arg_names {shown}", _in_model(in_forward)

        def in_keywords(document: Document, name: str = name) -> None:
            leaf: Document = {"type": None, "context": None, "children_spec": []}
            empty = {"type": "builtins.tuple", "context": "null", "children_spec": []}
            words = {
                "type": "builtins.dict",
                "context": json.dumps([name]),
                "children_spec": [leaf],
            }
            both = {"type": "builtins.tuple", "context": "null", "children_spec": [empty, words]}
            _signature(document)["in_spec"] = json.dumps([1, both])
            _signature(document)["forward_arg_names"] = []

        if name not in ("__import__",):
            yield f"keyword {shown}", _in_model(in_keywords)
    for target in _OPERATORS:

        def in_node(document: Document, target: str = target) -> None:
            _graph(document)["nodes"][0]["target"] = target

        yield f"operator {target}", _in_model(in_node)
    for number, tree in enumerate(_TREES):
        for spec in ("in_spec", "out_spec"):

            def in_spec(document: Document, spec: str = spec, tree: str = tree) -> None:
                _signature(document)[spec] = tree

            yield f"{spec} {number}", _in_model(in_spec)
    yield from _arguments()
    yield from _payloads()


def _arguments() -> Iterator[tuple[str, Edit]]:
    arguments: dict[str, Document] = {
        "operator": {"as_operator": "torch.os.system"},
        "custom object": {"as_custom_obj": {"name": "x", "class_fqn": "y"}},
        "sums": {"as_sym_int": {"as_name": "x; exec('1')"}},
        "device": {"as_device": {"type": "cpu'); exec('1')#", "index": None}},
        "graph": {"as_graph": {"name": "x'); exec('1", "graph": {}}},
        "unknown": {"as_secret": 1},
    }
    for label, argument in arguments.items():

        def in_argument(document: Document, argument: Document = argument) -> None:
            _graph(document)["nodes"][0]["inputs"][0]["arg"] = argument

        yield f"argument {label}", _in_model(in_argument)

    def counted(document: Document) -> None:
        document["range_constraints"]["u99999999999"] = {"min_val": 2, "max_val": 3}

    def giant(document: Document) -> None:
        node = _graph(document)["nodes"][0]
        node["target"] = "torch.ops.aten.zeros.default"
        node["inputs"] = [{"name": "size", "arg": {"as_ints": [10**6, 10**6]}, "kind": 1}]

    def verified(document: Document) -> None:
        document["verifiers"] = ["no such"]

    def of_another_version(document: Document) -> None:
        document["schema_version"]["major"] = 99

    yield "counts to a hundred billion", _in_model(counted)
    yield "makes a giant", _in_model(giant)
    yield "verifier", _in_model(verified)
    yield "schema version", _in_model(of_another_version)


def _payloads() -> Iterator[tuple[str, Edit]]:
    evil = checkpoint(call("os.system", text(COMMAND)))
    for folder in ("weights", "constants"):
        yield f"pickle in {folder}", _pickled(folder, evil)
        yield (
            f"plain pickle in {folder}",
            _pickled(folder, b"\x80\x02" + call("builtins.exec", text(PYTHON)) + b"."),
        )

    def add(name: str, content: bytes) -> Edit:
        def edit(members: Members) -> None:
            top = next(iter(members)).split("/")[0]
            members[f"{top}/{name}"] = content

        return edit

    yield "sample inputs", add("data/sample_inputs/model.pt", evil)
    yield "sample inputs that are text", add("data/sample_inputs/model.pt", b"import os")
    yield "legacy weights", add("data/weights/model.pt", evil)
    yield "legacy constants", add("data/constants/model.pt", evil)
    yield "compiled code", add("data/aotinductor/model/kernel.so", b"\x7fELF")
    yield "other runtime", add("data/executorch/model.pte", b"x")
    yield "way out", add("../../RAN", b"x")
    yield "same name in capitals", add("models/MODEL.json", b"{}")
    metas: dict[str, Document] = {
        "giant": {"sizes": [{"as_int": 10**6}] * 2, "strides": [{"as_int": 0}] * 2},
        "beyond": {"sizes": [{"as_int": 10**4}], "strides": [{"as_int": 1}]},
        "symbolic": {"sizes": [{"as_expr": {"expr_str": _EVAL}}], "strides": [{"as_int": 1}]},
        "negative": {"sizes": [{"as_int": -1}], "strides": [{"as_int": 1}]},
    }
    for label, meta in metas.items():

        def in_config(document: Document, meta: Document = meta) -> None:
            next(iter(document["config"].values()))["tensor_meta"].update(meta)

        yield f"weight that is {label}", _in_table("weights_config.json", in_config)
    for path_name in ("opaque_obj_0", "custom_obj_0", "../x", "weight_0/../../x"):

        def in_path(document: Document, path_name: str = path_name) -> None:
            next(iter(document["config"].values()))["path_name"] = path_name

        yield f"path {path_name}", _in_table("weights_config.json", in_path)

    def cut(members: Members) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        members[name] = members[name][:200]

    def deep(members: Members) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        members[name] = b'{"graph_module":' * 50_000

    def a_list(members: Members) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        members[name] = b"[]"

    def without_model(members: Members) -> None:
        del members[next(name for name in members if name.endswith("models/model.json"))]

    yield from (("cut", cut), ("deep", deep), ("list", a_list), ("without model", without_model))


def _pickled(folder: str, content: bytes) -> Edit:
    def edit(members: Members) -> None:
        table = next(n for n in members if f"/{folder}/" in n and n.endswith("_config.json"))
        document = json.loads(members[table])
        entry = next(iter(document["config"].values()))
        entry["use_pickle"] = True
        members[table] = json.dumps(document).encode()
        members[f"{table.rpartition('/')[0]}/{entry['path_name']}"] = content

    return edit


EDITS = dict(_hostile_edits())


def hostile_program(honest: bytes, label: str) -> bytes:
    """The honest archive with one thing changed."""
    members = members_of(honest)
    EDITS[label](members)
    return archive_of(members)
