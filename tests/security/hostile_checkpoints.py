"""Checkpoints that run code, lie about sizes, or hide something where a module is expected."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator

import torch

from tests.security.pickle_programs import (
    COMMAND,
    HEAD,
    PYTHON,
    TAIL,
    built,
    call,
    checkpoint,
    late_name,
    module,
    name,
    new,
    number,
    old_checkpoint,
    parameter,
    storage,
    table,
    tensor,
    text,
    together,
)

Case = tuple[str, bytes]

_FUNCTIONS = {
    "os.system": text(COMMAND),
    "posix.system": text(COMMAND),
    "nt.system": text(COMMAND),
    "os.popen": text(COMMAND),
    "subprocess.Popen": text("touch"),
    "subprocess.check_output": text("touch"),
    "builtins.exec": text(PYTHON),
    "builtins.eval": text(PYTHON),
    "__builtin__.eval": text(PYTHON),
    "builtins.compile": text(PYTHON),
    "builtins.__import__": text("antigravity"),
    "builtins.open": text("RAN"),
    "builtins.getattr": text("system"),
    "builtins.globals": b"",
    "builtins.breakpoint": b"",
    "importlib.import_module": text("antigravity"),
    "runpy.run_path": text("RAN.py"),
    "webbrowser.open": text("file:///RAN"),
    "timeit.timeit": text(PYTHON),
    "cProfile.run": text(PYTHON),
    "code.interact": b"",
    "pdb.run": text(PYTHON),
    "pickle.loads": text("x"),
    "_pickle.loads": text("x"),
    "dill.loads": text("x"),
    "marshal.loads": text("x"),
    "types.FunctionType": text("x"),
    "types.CodeType": text("x"),
    "operator.attrgetter": text("system"),
    "operator.methodcaller": text("system"),
    "functools.reduce": text("x"),
    "itertools.starmap": text("x"),
    "shutil.rmtree": text("RAN"),
    "shutil.copyfile": text("RAN"),
    "socket.create_connection": text("x"),
    "urllib.request.urlopen": text("http://localhost/"),
    "ctypes.CDLL": text("libc.so.6"),
    "numpy.load": text("RAN"),
    "numpy.f2py.compile": text("x"),
    "numpy.testing._private.utils.runstring": text(PYTHON),
    "torch.load": text("RAN"),
    "torch.hub.load": text("x"),
    "torch.hub.load_state_dict_from_url": text("http://localhost/x"),
    "torch.jit.load": text("RAN"),
    "torch.ops.load_library": text("RAN"),
    "torch.utils.cpp_extension.load_inline": text("x"),
    "torch._inductor.codecache.PyCodeCache.load": text(PYTHON),
    "torch.fx.graph_module.reduce_graph_module": text(PYTHON),
    "torch.fx.graph_module._forward_from_src": text(PYTHON),
    "torch.fx.GraphModule": text("x"),
    "torch.storage._load_from_bytes": text("x"),
    "torch._utils._rebuild_qtensor": text("x"),
    "torch._utils._rebuild_sparse_tensor": text("x"),
    "torch._utils._rebuild_wrapper_subclass": text("x"),
    "torch._utils._rebuild_device_tensor_from_numpy": text("x"),
    "torch.nn.functional.relu": number(1),
    "torch.nn.modules.module.register_module_forward_hook": text("x"),
    "torch.nn.modules.container.Sequential": b"",
    "torch.nn.modules.linear.Linear": number(3) + number(4),
    "torch.nn.parallel.distributed.DistributedDataParallel": b"",
    "torchvision.models.resnet.resnet18": b"\x88",
    "torchvision.models.inception.Inception3": b"",
    "torchvision.models._api.get_model": text("resnet18"),
    "torchvision.transforms.transforms.Lambda": text("x"),
    "torchvision.transforms.v2._misc.Lambda": text("x"),
    "torchvision._internally_replaced_utils.load_state_dict_from_url": text("http://localhost/x"),
    "timm.models._factory.create_model": text("resnet18"),
    "timm.models._hub.load_model_config_from_hf": text("x"),
    "timm.models._helpers.load_checkpoint": text("x"),
    "timm.models.vision_transformer.VisionTransformer": b"",
    "timm.models.resnet.resnet18": b"\x88",
    "copyreg._reconstructor": text("x"),
    "copyreg.add_extension": text("x"),
    "weakref.finalize": text("x"),
    "atexit.register": text("x"),
    "logging.config.listen": number(0),
    "sys.exit": number(0),
    "os._exit": number(0),
    "collections.Counter": text("text"),
    "collections.defaultdict": name("os.getcwd"),
    "builtins.range": text("x"),
    "torch.device": number(-5),
}


def calls() -> Iterator[Case]:
    """One call each, as what the checkpoint is and in its old format."""
    for function, arguments in _FUNCTIONS.items():
        program = call(function, arguments)
        yield f"call {function}", checkpoint(program)
    for function in (
        "os.system",
        "builtins.exec",
        "torch.nn.modules.linear.Linear",
        "timm.models.resnet.ResNet",
    ):
        arguments = _FUNCTIONS.get(function, b"")
        yield f"call {function} in the old format", old_checkpoint(call(function, arguments))
        yield (
            f"call {function} by late name",
            checkpoint(late_name(function) + together(arguments) + b"R"),
        )
        yield (
            f"call {function} beside weights",
            checkpoint(table((text("a"), call(function, arguments)))),
        )
        yield f"make {function}", checkpoint(new(function, arguments))
        yield f"state of {function}", checkpoint(built(new(function), table()))
        yield f"bare pickle of {function}", HEAD + call(function, arguments) + TAIL


def odd_instructions() -> Iterator[Case]:
    """Instructions and orders of them that torch.save never writes."""
    for label, program in {
        "INST": b"(" + text(COMMAND) + b"ios\nsystem\n",
        "OBJ": b"(" + name("os.system") + text(COMMAND) + b"o",
        "NEWOBJ_EX": name("os.system") + b")}\x92",
        "EXT1": b"\x82\x01",
        "PERSID": b"Pos.system\n",
        "DUP": b"]2",
        "GET": b"]p0\ng0\n",
        "LONG4": b"\x8b\x04\x00\x00\x00\x01\x02\x03\x04",
        "INT": b"I5\n",
        "STRING": b"S'x'\n",
        "NEXT_BUFFER": b"\x97",
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 4) + b"abcd",
        "unknown": b"\xff",
        "empty stack": b"R",
        "no mark": b"t",
        "no memo": b"h\x05",
        "huge text": b"X\xff\xff\xff\x7fabc",
        "huge bytes": b"\x8e" + struct.pack("<Q", 2**62),
        "name of nothing": b"c\n\n",
        "name without text": number(1) + number(2) + b"\x93",
        "name with a newline": text("os\nsys") + text("system") + b"\x93",
        "persistent text": text("x") + b"Q",
        "persistent code": together(text("code"), text("x")) + b"Q",
        "persistent call": together(text("storage"), name("os.system"), text("0")) + b"Q",
        "state for a list": b"]}b",
        "append to a tuple": b")Na",
        "set items of a list": b"](NNu",
        "list as key": table((b"]", b"N")),
        "nested key": table((together(together(number(1))), b"N")),
        "huge key": table((number(2**70), b"N")),
        "call of a number": number(1) + b")R",
        "call without a tuple": name("collections.OrderedDict") + b"]R",
    }.items():  # fmt: skip
        yield f"instruction: {label}", checkpoint(program)
        yield f"instruction: {label} in the old format", old_checkpoint(program)


_TEN = tensor(storage("FloatStorage", "0", 10), 0, (10,), (1,))


def sizes() -> Iterator[Case]:
    """Tensors, storages and containers that are larger than the file."""

    def stored(count: int) -> bytes:
        return storage("FloatStorage", "0", count)

    for label, made in {
        "storage beyond its record": tensor(stored(1_000), 0, (1_000,), (1,)),
        "storage of a petabyte": tensor(stored(2**48), 0, (1,), (1,)),
        "negative storage": tensor(stored(-1), 0, (1,), (1,)),
        "storage of another type": tensor(storage("StringStorage", "0", 1), 0, (1,), (1,)),
        "storage that is missing": tensor(storage("FloatStorage", "7", 1), 0, (1,), (1,)),
        "storage outside": tensor(storage("FloatStorage", "../../x", 1), 0, (1,), (1,)),
        "tensor beyond its storage": tensor(stored(10), 0, (20,), (1,)),
        "tensor behind its storage": tensor(stored(10), 11, (1,), (1,)),
        "tensor before its storage": tensor(stored(10), -1, (1,), (1,)),
        "strides beyond": tensor(stored(10), 0, (2, 2), (9, 9)),
        "negative strides": tensor(stored(10), 9, (3,), (-1,)),
        "tensor of a billion from one": tensor(stored(1), 0, (10**9,), (0,)),
        "linear of 10^6 by 10^6": tensor(stored(1), 0, (10**6, 10**6), (0, 0)),
        "huge lengths": tensor(stored(1), 0, (2**62, 2**62), (0, 0)),
        "many dimensions": tensor(stored(1), 0, (1,) * 100, (1,) * 100),
        "texts as lengths": call(
            "torch._utils._rebuild_tensor_v2", stored(1), number(0), together(text("a")),
            together(text("b")), b"\x89", b"}",
        ),
        "set from a billion": call("builtins.set", call("builtins.range", number(10**10))),
        "counter of a billion": call("collections.Counter", call("builtins.range", number(10**10))),
        "bytes of a terabyte": call("builtins.bytearray", number(10**12)),
        "shape from a range": call("torch.Size", call("builtins.range", number(10**9))),
    }.items():  # fmt: skip
        yield f"size: {label}", checkpoint(table((text("weight"), made)))
        if "record" not in label and "missing" not in label:
            yield (
                f"size: {label} in the old format",
                old_checkpoint(
                    table((text("weight"), made)), ("0",), struct.pack("<q", 10) + b"\0" * 40
                ),
            )
    many = b"".join(text(f"w{i}") + tensor(stored(1), 0, (2**24,), (0,)) for i in range(64))
    yield "size: many tensors of one number", checkpoint(b"}(" + many + b"u")
    laughs = b"]q\x00(" + b"N" * 10 + b"e"
    for level in range(1, 40):
        laughs += (
            b"](" + b"h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"eq" + bytes([level])
        )
    yield (
        "size: lists of lists",
        checkpoint(module("torch.nn.modules.activation.ReLU", (text("x"), laughs))),
    )
    steps = b"N" + b"0N" * 1_600_000
    yield "size: millions of steps", checkpoint(steps)


def stored_call(function: str, arguments: bytes = b")", settings: bytes = b"}") -> bytes:
    """Push a ``functools.partial``."""
    state = together(name(function), arguments, settings, b"N")
    return built(call("functools.partial", name(function)), state)


def modules() -> Iterator[Case]:
    """Modules whose state is no module's."""
    relu = "torch.nn.modules.activation.ReLU"
    sequential = "torch.nn.modules.container.Sequential"
    for attribute in (
        "forward", "_call_impl", "__call__", "__class__", "__deepcopy__", "__reduce_ex__",
        "__getstate__", "__dict__", "_slow_forward", "_compiled_call_impl", "eval", "train",
        "state_dict", "named_modules", "parameters", "register_buffer", "_apply", "extra_repr",
        "class", "lambda", "a b", "a.b", "", "a\n", "a\0", "\ud800", "x" * 300, 'a"', "a');",
        "ﬁt", "a\u202e", "getattr(self)", "__x__",
    ):  # fmt: skip
        yield (
            f"attribute {ascii(attribute)[:40]}",
            checkpoint(module(relu, (text(attribute), number(1)))),
        )
    for hook in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks"):
        hooks = table((number(0), name("torch.nn.functional.relu")))
        yield f"hooks in {hook}", checkpoint(module(relu, (text(hook), hooks)))
    for part in (
        'a", exec("1"))#', "a'b", "a\nb", "a\0b", "\ud800", "class", "a b", "", "x" * 300, "a.b",
        "__class__", "forward", "ﬁt", "0;", "import", "a)", "#", "a\\", "\u2028", "a\tb", "{a}",
    ):  # fmt: skip
        child = (text(part), module(relu))
        shown = ascii(part)[:40]
        yield f"child {shown}", checkpoint(module(sequential, children=(child,)))
        yield (
            f"parameter {shown}",
            checkpoint(module(relu, parameters=((text(part), parameter(_TEN)),))),
        )
        yield (
            f"child {shown} in the old format",
            old_checkpoint(module(sequential, children=(child,))),
        )
    linear = "torch.nn.modules.linear.Linear"
    giant = table((text("in_features"), number(10**9)))
    for label, value in {
        "system": name("os.system"),
        "a function of an allowed package": name("torch.nn.functional.interpolate"),
        "a partial of system": stored_call("os.system"),
        "a partial of a network": stored_call("timm.models.resnet.ResNet"),
        "a partial with arguments": stored_call(linear, together(number(10**6))),
        "a partial of a giant": stored_call(linear, b")", giant),
        "a transform": name("torchvision.transforms.v2._misc.Lambda"),
    }.items():
        yield f"stores {label}", checkpoint(module(relu, (text("act"), value)))
    yield "tensor as child", checkpoint(module(sequential, children=((text("a"), _TEN),)))
    yield "plain tensor as parameter", checkpoint(module(relu, parameters=((text("w"), _TEN),)))
    yield "state that is a list", checkpoint(built(new(relu), b"]"))
    yield "state given twice", checkpoint(built(module(relu), table()))
    yield "tables that are lists", checkpoint(built(new(relu), table((text("_modules"), b"]"))))
    yield (
        "graph module",
        checkpoint(
            built(new("torch.fx.graph_module.GraphModule"), table((text("_code"), text(PYTHON))))
        ),
    )
    yield "script module", checkpoint(new("torch.jit._script.RecursiveScriptModule"))
    yield "recurrent with a billion layers", checkpoint(
        module("torch.nn.modules.rnn.LSTM", (text("num_layers"), number(10**9)),
               (text("_all_weights"), b"]]aa"[:1] + b"]a"), (text("bidirectional"), b"\x89"))
    )  # fmt: skip
    itself = (
        new(sequential) + b"q\x07" + table((text("_modules"), table((text("a"), b"h\x07")))) + b"b"
    )
    yield "module in itself", checkpoint(itself)
    doubled = module(relu) + b"q\x00"
    for level in range(1, 30):
        before = b"h" + bytes([level - 1])
        doubled = (
            doubled
            + b"0"
            + module(sequential, children=((text("0"), before), (text("1"), before)))
            + b"q"
            + bytes([level])
        )
    yield "module by a billion ways", checkpoint(doubled)
    later = table() + b"q\x09" + b"0"
    later += built(new(sequential), table((text("_modules"), b"h\x09"))) + b"0"
    yield "no module after all", checkpoint(later + b"h\x09")


def archives() -> Iterator[Case]:
    """Zip files that say one thing here and another there, or do not end."""
    honest = io.BytesIO()
    torch.save({"weight": torch.zeros(4)}, honest)
    content = honest.getvalue()
    evil = HEAD + call("os.system", text(COMMAND)) + TAIL
    good = HEAD + table() + TAIL
    for label, members in {
        "two pickles": [("a/data.pkl", good), ("b/data.pkl", evil)],
        "one name twice": [("a/data.pkl", good), ("a/data.pkl", evil)],
        "one name in two cases": [("a/data.pkl", good), ("a/DATA.pkl", evil)],
        "no pickle": [("a/version", b"3")],
        "pickle without a folder": [("data.pkl", evil)],
        "pickle deeper": [("a/b/data.pkl", evil)],
        "script": [("a/data.pkl", evil), ("a/constants.pkl", evil), ("a/code/x.py", b"")],
        "other byte order": [("a/data.pkl", good), ("a/byteorder", b"big")],
    }.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, data in members:
                archive.writestr(member, data)
        yield f"archive: {label}", buffer.getvalue()
    for method, label in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a/data.pkl", evil)
        yield f"archive: {label}", buffer.getvalue()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", good)
        archive.writestr("a/data/0", b"\0" * 2**24)
    declared = bytearray(bomb.getvalue())
    place = declared.rindex(b"PK\x01\x02")
    declared[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)
    yield "archive: declares four gigabytes", bytes(declared)
    for cut in (0.1, 0.5, 0.9, 0.99):
        yield f"archive: cut at {cut}", content[: int(len(content) * cut)]
    for place in range(30, len(content), len(content) // 12):
        damaged = bytearray(content)
        damaged[place : place + 40] = b"\xff" * 40
        yield f"archive: damaged at {place}", bytes(damaged)
    yield "evil pickle before an honest archive", evil + content
    yield "evil old format before an honest archive", old_checkpoint(evil[2:-1]) + content
    yield "tar", b"storages\0" + b"\0" * 600
    yield "text", b"import os\nos.system('touch RAN')\n"
    yield "nothing", b""
    yield "one byte", b"\x80"
    yield "bare weights", pickle.dumps({"a": [1.0]}, protocol=4)


def weights() -> Iterator[tuple[str, str, bytes]]:
    """State dictionaries with names that are none: label, suffix and content."""
    for label in (
        'a", exec("1"))#', "a\nb", "a\0b", "class", "a b", "a..b", "",
        "x" * 3_000, "a;b", "e\u0301",
    ):  # fmt: skip
        buffer = io.BytesIO()
        torch.save({label: torch.zeros(2)}, buffer)
        yield f"weights named {ascii(label)[:40]}", ".pt", buffer.getvalue()
        yield f"safetensors named {ascii(label)[:40]}", ".safetensors", safetensors({label: (0, 8)})
    for label, content in {
        "beyond the file": safetensors({"w": (0, 800)}),
        "before the file": safetensors({"w": (-8, 0)}),
        "overlapping": safetensors({"v": (0, 8), "w": (4, 12)}),
        "of a type that is none": safetensors({"w": (0, 8)}, dtype="X9"),
        "of another shape": safetensors({"w": (0, 8)}, shape=[10**9]),
        "with a huge header": struct.pack("<Q", 2**60) + b"{}",
        "with a cut header": struct.pack("<Q", 100) + b"{",
        "with a deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "with a list as header": struct.pack("<Q", 2) + b"[]",
        "empty": b"",
        "cut": safetensors({"w": (0, 8)})[:20],
    }.items():
        yield f"safetensors {label}", ".safetensors", content


def safetensors(
    places: dict[str, tuple[int, int]], dtype: str = "F32", shape: list[int] | None = None
) -> bytes:
    """A file with these tensors, of two numbers each unless told otherwise."""
    header = json.dumps(
        {
            key: {"dtype": dtype, "shape": shape or [2], "data_offsets": list(place)}
            for key, place in places.items()
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 8


def all_pickles() -> Iterator[Case]:
    """Every checkpoint that is a pickle."""
    yield from calls()
    yield from odd_instructions()
    yield from sizes()
    yield from modules()
    yield from archives()
