"""Replace calls that write into their argument, also through views, by calls that make new values.

Every value is the view of some value that owns the memory, along a path of calls (slices, reshapes,
permutations). A write makes a new value of the view; following the path back, a new value of the
owner: what is written into a slice is joined with what lies beside it. Later reads of any view of
the same memory read from the new owner. ``x[:, :8] = f(x[:, :8])`` becomes
``x = cat([f(x[:, :8]), x[:, 8:]], 1)``, for which labels, gradients, proof and export are known.

``run_decompositions`` would do it too, but it also turns batch norm and dropout into their
inference forms, and the shrunk network must stay trainable.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_arg

from fairdeploy.graph.call_facts import argument, fetch_tensor, normal_dim
from fairdeploy.graph.operators import gives_back, kind_of, op_name, row_of

aten = torch.ops.aten
END = 2**63 - 1
_OWN_NAMES = {"__iand__": "bitwise_and", "__ior__": "bitwise_or", "__ixor__": "bitwise_xor",
              "__ilshift__": "bitwise_left_shift",
              "__irshift__": "bitwise_right_shift"}  # fmt: skip
_ONLY_SHAPES = {
    "unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "detach_",
}  # fmt: skip
"""They change how a tensor is looked at, and none of its numbers."""


class Window(NamedTuple):
    """The part of a dimension that a call cuts out."""

    dim: int
    start: int
    stop: float
    """Infinite: up to the end, wherever that is."""

    def is_apart_from(self, other: Window) -> bool:
        """Whether the two share no index, which only parts of one dimension can promise."""
        is_before = self.stop <= other.start or other.stop <= self.start
        return self.dim == other.dim and is_before


class Piece(NamedTuple):
    """A stretch of a joined value, and the value that it was."""

    start: int
    stop: float
    node: fx.Node


class FunctionalWrites:
    """Walks through a graph once and makes its writes functional (changes the graph)."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module, self._graph = module, module.graph
        self._source: dict[fx.Node, fx.Node] = {}
        """What a view is a view of."""
        self._same: dict[fx.Node, fx.Node] = {}
        """The result of a write, or a slice that leaves nothing out, is what it was made of."""
        self._writes: dict[fx.Node, list[tuple[fx.Node, ...]]] = {}
        """By owner: the paths that were written through, in order."""
        self._current: dict[fx.Node, tuple[int, fx.Node]] = {}
        """After how many writes a value is good, and the node that has it."""
        self._pieces: dict[fx.Node, tuple[int, tuple[Piece, ...]]] = {}
        self._made: list[fx.Node] = []
        self._gone: list[fx.Node] = []

    def run(self) -> None:
        """Make every write functional whose way back to the owner is known."""
        if not any(_is_write(node) for node in self._graph.nodes):
            return
        for node in list(self._graph.nodes):
            source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
            if op_name(node) in _ONLY_SHAPES and (twin := _twin(node)) is not None:
                node.target = twin
            for used in node.all_input_nodes:
                value = self._value(used, node)
                if value is not used:
                    node.replace_input_with(used, value)
            if source is None or node.op != "call_function":
                continue
            if _is_write(node):
                self._write(node, source)
            elif _is_whole(node):
                self._same[node] = source
            elif self._shows(node, source):
                self._source[node] = source
                self._current[node] = (len(self._writes.get(self._path(node)[0], ())), node)
        for node in reversed(self._gone):
            self._graph.erase_node(node)
        if self._writes:
            self._drop_unread()

    def _drop_unread(self) -> None:
        """Erase views and owners that nothing reads since their writes are new values."""
        written = {owner for owner in self._writes if owner.op == "call_function"}
        ours = {*self._source, *self._same, *written, *self._made}
        for node in reversed(list(self._graph.nodes)):
            if node in ours and not node.users and not node.is_impure():
                self._graph.erase_node(node)

    # ---- which memory a value shows --------------------------------------------------------------

    def _shows(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a value is a view of another, as it was when the network was traced."""
        if op_name(node) == "getitem":
            return source in self._source and kind_of(source) == "pieces"
        return _shares_memory(node, source)

    def _real(self, node: fx.Node) -> fx.Node:
        """The view or owner that a value is only another name of."""
        while node in self._same:
            node = self._same[node]
        return node

    def _path(self, node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        """The owner of the memory, and the calls that lead from it to ``node``."""
        steps: list[fx.Node] = []
        while True:
            node = self._real(node)
            if node not in self._source:
                return node, tuple(reversed(steps))
            if kind_of(node) != "pieces":
                steps.append(node)
            node = self._source[node]

    def _value(self, node: fx.Node, before: fx.Node) -> fx.Node:
        """The node that has what ``node`` shows when ``before`` runs."""
        node = self._real(node)
        owner, steps = self._path(node)
        writes = self._writes.get(owner, [])
        number, value = self._current.get(node, (0, node))
        if not any(_overlap(steps, other) for other in writes[number:]):
            return value
        base = self._value(self._source[node], before)
        with self._graph.inserting_before(before):
            # what else the call reads are sizes and places: they do not change
            value = self._graph.call_function(
                node.target,  # type: ignore[arg-type]
                (base, *node.args[1:]),
                dict(node.kwargs),
            )
        self._note(value, node)
        self._current[node] = (len(writes), value)
        return value

    # ---- a write ---------------------------------------------------------------------------------

    def _write(self, node: fx.Node, written: fx.Node) -> None:
        """Turn one write into a new value of what it writes to, and of all that contains it."""
        owner, steps = self._path(written)
        if not all(self._can_return(step) for step in steps):
            self._same[node] = written
            return
        place = node.next
        new = self._new_value(node)
        if new is None:
            self._same[node] = written
            return
        values = {written: new}
        value = new
        for step in reversed(steps):
            base = self._source_of(step)
            value = self._put_back(step, self._value(base, place), value, place)
            values[base] = value
        self._same[node] = written
        self._writes.setdefault(owner, []).append(steps)
        number = len(self._writes[owner])
        for shown, value in values.items():
            self._current[self._real(shown)] = (number, value)
        if new is not node:
            self._gone.append(node)

    def _source_of(self, step: fx.Node) -> fx.Node:
        """What a step of a path is a view of; of one of several pieces, the value that was cut."""
        source = self._source[step]
        return self._source[source] if kind_of(source) == "pieces" else source

    def _new_value(self, node: fx.Node) -> fx.Node | None:
        """The value after the write; None where no call without the write gives it."""
        view = node.args[0]
        assert isinstance(view, fx.Node)
        name = op_name(node)
        if name == "copy_":
            return self._copied(node, view)
        if name in {"fill_", "zero_"}:
            return self._filled(node, view)
        twin = _twin(node)
        if twin is None:
            return None
        dtype = _tensor_of(view).dtype
        node.target = twin
        is_other = row_of(name.removesuffix("_")).kind == "comparison" or any(
            torch.promote_types(dtype, value.dtype) != dtype
            for used in node.args[1:]
            if isinstance(used, fx.Node) and isinstance(value := used.meta.get("val"), Tensor)
            and value.dim()
        )  # fmt: skip
        return self._call(node.next, aten.to.dtype, (node, dtype), node) if is_other else node

    def _copied(self, node: fx.Node, view: fx.Node) -> fx.Node | None:
        source = node.args[1]
        if not isinstance(source, fx.Node):
            return None
        wanted, given = _tensor_of(view), _tensor_of(source)
        if given.dtype != wanted.dtype:
            source = self._call(node, aten.to.dtype, (source, wanted.dtype), node)
        if not _same_shape(given, wanted):
            source = self._call(node, aten.expand_as.default, (source, view), node)
        return source

    def _filled(self, node: fx.Node, view: fx.Node) -> fx.Node:
        number: object = node.args[1] if len(node.args) > 1 else 0
        window = window_of(view) if op_name(view) == "select" else None
        if isinstance(number, fx.Node):
            constant = _constant(self._module, number)
            if constant is None:
                value = self._call(node, aten.expand_as.default, (number, view), node)
                return self._call(node, aten.to.dtype, (value, _tensor_of(view).dtype), node)
            number = constant
        if window is None:
            return self._call(node, aten.full_like.default, (view, number), node)
        # the one index is cut, not picked: what it is picked from need not stay for that
        cut = (view.args[0], window.dim, window.start, window.start + 1)
        view = self._call(node, aten.slice.Tensor, cut, node)
        filled = self._call(node, aten.full_like.default, (view, number), node)
        return self._call(node, aten.squeeze.dim, (filled, window.dim), node)

    # ---- the way back to the owner ---------------------------------------------------------------

    def _can_return(self, step: fx.Node) -> bool:
        if op_name(step) == "expand":
            return _same_shape(_tensor_of(step), _tensor_of(self._source_of(step)))
        return op_name(step) == "diagonal" or kind_of(step) in {
            "cut", "permute", "same", "dropout", "cast", "reshape", "transpose",
        }  # fmt: skip

    def _put_back(self, step: fx.Node, base: fx.Node, value: fx.Node, place: fx.Node) -> fx.Node:
        """The new value of ``base``, of which ``step`` shows what is ``value`` now."""
        name, kind = op_name(step), kind_of(step)

        def call(target: Callable[..., Any], *args: object) -> fx.Node:
            return self._call(place, target, args, step)

        if kind == "cut":
            return self._joined(step, base, value, call)
        if kind in {"same", "dropout", "cast", "expand"}:
            return value
        if kind == "transpose":
            return call(step.target, value, *step.args[1:])  # type: ignore[arg-type]
        if name == "permute":
            order = [normal_dim(dim, len(step.args[1])) for dim in step.args[1]]  # type: ignore
            return call(
                aten.permute.default, value, sorted(range(len(order)), key=order.__getitem__)
            )
        if name in {"movedim", "moveaxis"}:
            return call(step.target, value, step.args[2], step.args[1])  # type: ignore[arg-type]
        if name == "diagonal":
            return call(aten.diagonal_scatter.default, base, value, *step.args[1:])
        sizes = list(_tensor_of(base).shape)
        symbolic = [dim for dim, size in enumerate(sizes) if not isinstance(size, int)]
        for dim in symbolic:
            sizes[dim] = -1 if len(symbolic) == 1 else call(aten.sym_size.int, base, dim)  # type: ignore
        return call(aten.reshape.default, value, sizes)

    def _joined(
        self, step: fx.Node, base: fx.Node, value: fx.Node, call: Callable[..., fx.Node]
    ) -> fx.Node:
        """``base`` with ``value`` in the window that ``step`` cuts out."""
        name, window = op_name(step), window_of(step)
        if window is None:
            scatter = aten.select_scatter if name == "select" else aten.slice_scatter
            return call(scatter.default, base, value, *step.args[1:])
        if name == "select" or (name == "getitem" and _is_single(step)):
            is_squeezed = value.target is aten.squeeze.dim and value.args[1] == window.dim
            value = (
                value.all_input_nodes[0]
                if is_squeezed
                else call(aten.unsqueeze.default, value, window.dim)
            )
        length = _tensor_of(base).shape[window.dim]
        end = length if isinstance(length, int) else math.inf
        dim, pieces = self._pieces.get(base, (window.dim, (Piece(0, end, base),)))
        if dim != window.dim:
            pieces = (Piece(0, end, base),)
        kept = [Piece(window.start, min(window.stop, end), value)]
        for piece in pieces:
            for start, stop in ((piece.start, min(piece.stop, window.start)),
                                (max(piece.start, window.stop), piece.stop)):  # fmt: skip
                if start < stop:
                    kept.append(Piece(int(start), stop, _cut(piece, int(start), stop, window.dim,
                                                             call)))  # fmt: skip
        kept.sort(key=lambda piece: piece.start)
        if len(kept) == 1:
            return kept[0].node
        joined = call(aten.cat.default, [piece.node for piece in kept], window.dim)
        self._pieces[joined] = (window.dim, tuple(kept))
        return joined

    # ---- new nodes -------------------------------------------------------------------------------

    def _call(
        self, before: fx.Node, target: Callable[..., Any], args: Sequence[object], like: fx.Node
    ) -> fx.Node:
        with self._graph.inserting_before(before):
            node = self._graph.call_function(target, tuple(args))  # type: ignore[arg-type]
        self._note(node, like)
        return node

    def _note(self, node: fx.Node, like: fx.Node) -> None:
        """Say where a new node comes from, and what it gives for the example."""
        node.meta = {key: value for key, value in like.meta.items() if key != "val"}
        node.meta["val"] = _example_of(node)
        self._made.append(node)


def window_of(step: fx.Node) -> Window | None:
    """What a call cuts out of a dimension; None where that is no stretch with known bounds."""
    name = op_name(step)
    if name == "getitem":
        return _window_of_piece(step)
    source = step.args[0]
    assert isinstance(source, fx.Node)
    if kind_of(step) != "cut":
        return None
    shape = _tensor_of(source).shape
    given = argument(step, 1, "dim", 0)
    assert isinstance(given, int)
    dim = normal_dim(given, len(shape))
    length = shape[dim] if isinstance(shape[dim], int) else None
    if name == "slice":
        start = argument(step, 2, "start")
        stop = argument(step, 3, "end")
        start, stop = 0 if start is None else start, END if stop is None else stop
        if argument(step, 4, "step", 1) != 1:
            return None
    else:
        start = step.args[2] if len(step.args) > 2 else step.kwargs.get("index")
        width = step.args[3] if name == "narrow" else 1
        if not isinstance(start, int) or not isinstance(width, int):
            return None
        stop = start + width if start + width else END
    if not isinstance(start, int) or not isinstance(stop, int):
        return None
    if length is not None:
        start, stop, _ = slice(start, stop).indices(length)
        return Window(dim, start, max(start, stop))
    return None if start < 0 or stop < 0 else Window(dim, start, stop if stop < END else math.inf)


def _window_of_piece(step: fx.Node) -> Window | None:
    """Of one of the pieces that a value was cut into."""
    cut, place = step.args
    assert isinstance(cut, fx.Node)
    assert isinstance(place, int)
    if kind_of(cut) != "pieces":
        return None
    index = 1 if op_name(cut) == "unbind" else 2
    given = argument(cut, index, "dim", 0)
    source = cut.args[0]
    assert isinstance(source, fx.Node)
    assert isinstance(given, int)
    dim = normal_dim(given, _tensor_of(source).dim())
    if op_name(cut) == "unbind":
        return Window(dim, place, place + 1)
    lengths = [piece.shape[dim] for piece in cut.meta["val"]]
    if not all(isinstance(length, int) for length in lengths):
        return None
    start = sum(lengths[:place])
    return Window(dim, start, start + lengths[place])


def _is_single(step: fx.Node) -> bool:
    cut = step.args[0]
    return isinstance(cut, fx.Node) and op_name(cut) == "unbind"


def _cut(piece: Piece, start: int, stop: float, dim: int, call: Callable[..., fx.Node]) -> fx.Node:
    """The part of a piece from ``start`` to ``stop``."""
    if (start, stop) == (piece.start, piece.stop):
        return piece.node
    end = END if stop == math.inf else int(stop) - piece.start
    return call(aten.slice.Tensor, piece.node, dim, start - piece.start, end)


def _overlap(one: tuple[fx.Node, ...], other: tuple[fx.Node, ...]) -> bool:
    """Whether two paths from one owner lead to memory that they share, as far as one can tell."""
    for mine, theirs in zip(one, other, strict=False):
        if mine is theirs:
            continue
        windows = window_of(mine), window_of(theirs)
        if windows[0] is None or windows[1] is None:
            return True
        if windows[0].is_apart_from(windows[1]):
            return False
        if windows[0] != windows[1] or op_name(mine) != op_name(theirs):
            return True
    return True


def _is_whole(step: fx.Node) -> bool:
    """Whether a call is a slice that leaves nothing out."""
    source = step.args[0]
    if op_name(step) != "slice" or not isinstance(source, fx.Node):
        return False
    window = window_of(step)
    if window is None or window.start != 0:
        return False
    return window.stop in (math.inf, _tensor_of(source).shape[window.dim])


def _is_write(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    first = target._schema.arguments[0] if target._schema.arguments else None
    return first is not None and first.alias_info is not None and first.alias_info.is_write


def _twin(node: fx.Node) -> torch._ops.OpOverload | None:
    """The operator that gives what ``node`` would write."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.split("::")[-1]
    own = _OWN_NAMES.get(name)
    if own is None and (not name.endswith("_") or name.endswith("__")):
        return None
    packet = getattr(aten, own or name[:-1], None)
    overload = getattr(packet, target._overloadname, None)
    return overload if isinstance(overload, torch._ops.OpOverload) else None


def _shares_memory(node: fx.Node, source: fx.Node) -> bool:
    found, given = (value.meta.get("val") for value in (node, source))
    if isinstance(found, (list, tuple)) and kind_of(node) == "pieces":
        found = found[0] if found else None
    if not isinstance(found, Tensor) or not isinstance(given, Tensor):
        return False
    try:
        return bool(found.untyped_storage()._cdata == given.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a sparse tensor has no such memory
        return False


def _tensor_of(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor), node
    return value


def _same_shape(one: Tensor, other: Tensor) -> bool:
    """Whether two shapes are spelled alike; symbolic sizes are not compared by value."""
    spelled = [
        [size if isinstance(size, int) else size.node.expr for size in value.shape]
        for value in (one, other)
    ]
    return spelled[0] == spelled[1]


def _constant(module: fx.GraphModule, node: fx.Node) -> bool | int | float | None:
    """The number that a node without dimensions has, if it is stored in the graph."""
    while gives_back(node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    tensor = fetch_tensor(module, str(node.target)) if node.op == "get_attr" else None
    if tensor is None or tensor.dim() or isinstance(tensor, torch.nn.Parameter):
        return None
    number = tensor.item()
    return number if isinstance(number, (bool, int, float)) else None


def _example_of(node: fx.Node) -> Any:
    """What a new call gives for the example."""
    values = map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
    fakes = [used.meta["val"] for used in node.all_input_nodes]
    mode = next((value.fake_mode for value in fakes if isinstance(value, FakeTensor)), None)

    def faked(value: object) -> object:
        if mode is None or not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        return mode.from_tensor(value)

    args, kwargs = torch.utils._pytree.tree_map(faked, values)
    assert callable(node.target)
    if node.target is operator.getitem:
        return args[0][args[1]]
    with torch.no_grad():
        return node.target(*args, **kwargs)
