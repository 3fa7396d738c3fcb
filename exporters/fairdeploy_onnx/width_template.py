"""Files of other widths without exporting again: what is in the file is cut to size.

``torch.onnx`` takes seconds to minutes, and a latency budget wants to try several widths. The files
of two widths of one network differ only in the lengths of their weights and in the constants that
hold lengths (targets of reshapes, ends of slices, groups of convolutions). Each such number is
traced to a dimension of the network: by the weight's name; else by the node that it belongs to,
whose dimensions include one that had the one number in the one file and the other in the other.

The weights in such a file are cuts of the original's, so it computes nothing useful: it is for
timing, and only plain shapes decide how long a runtime takes. What cannot be traced has no
template, and the caller exports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fairdeploy.errors import ExportError
from fairdeploy.records import BranchCut, NetworkDims
from fairdeploy_onnx.node_sources import SOURCE_KEY

Lengths = NDArray[np.int64]
_Number = Callable[[Lengths], int]
"""From all lengths to what a number in the file is at these."""
_COPY = "~"
_NO_LENGTHS = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS)


class Untraceable(Exception):
    """The two files differ in something that is no length of the network."""


class WidthTemplate:
    """An ONNX file that can be written at other widths."""

    def __init__(
        self, original: Path, probe: Path, dims: NetworkDims, lengths: tuple[Lengths, Lengths]
    ) -> None:
        """Compare two files of one network.

        Args:
            original: The file with the whole network.
            probe: The same network at another width.
            dims: Which dimensions its tensors and nodes have.
            lengths: All lengths in ``original`` and in ``probe``, each of shape [D].

        Raises:
            Untraceable: They do not differ in lengths alone.
        """
        self._model = onnx.load(original)
        other = onnx.load(probe)
        _require_same_nodes(self._model.graph, other.graph)
        _give_each_reader_its_own(self._model.graph)
        self._trace = _Tracer(dims, lengths)
        self._cuts = dict(self._traced_tensors(other.graph))
        self._attributes = list(self._traced_attributes(other.graph))

    def write(self, path: Path, lengths: Lengths, cuts: Sequence[BranchCut] = ()) -> None:
        """Write the file with these lengths, shape [D], and without some branches to ``path``.

        Raises:
            ExportError: A branch cannot be told from the rest of the file.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._without_weights())
        for tensor in self._model.graph.initializer:
            change = self._cuts.get(tensor.name)
            model.graph.initializer.append(change(lengths) if change else tensor)
        for node, attribute, numbers in self._attributes:
            _set_numbers(model.graph.node[node].attribute[attribute], numbers, lengths)
        cut_branches(model.graph, cuts)
        # shapes of the values in between: the runtime infers them
        del model.graph.value_info[:]
        onnx.save(model, path)

    def _without_weights(self) -> Any:
        bare = onnx.ModelProto()
        bare.CopyFrom(self._model)
        del bare.graph.initializer[:]
        return bare

    def _traced_tensors(self, other: Any) -> Iterator[tuple[str, Callable[[Lengths], Any]]]:
        ours = {tensor.name: tensor for tensor in self._model.graph.initializer}
        theirs = {tensor.name: tensor for tensor in other.initializer}
        for node, twin in zip(self._model.graph.node, other.node, strict=True):
            for name, twin_name in zip(node.input, twin.input, strict=True):
                if name not in ours:
                    continue
                one, two = ours[name], theirs.get(twin_name)
                if two is None:
                    raise Untraceable(f"no constant like {name}")
                if list(one.dims) != list(two.dims):
                    yield name, self._cut(node, one, two)
                elif one.data_type == onnx.TensorProto.INT64 and one.raw_data != two.raw_data:
                    yield name, self._recount(node, one, two)

    def _cut(self, node: Any, ours: Any, changed: Any) -> Callable[[Lengths], Any]:
        """Cuts a weight along the dimensions that differ."""
        if ours.data_type == onnx.TensorProto.INT64:
            raise Untraceable(f"a table of places ({ours.name})")
        array = onnx.numpy_helper.to_array(ours)
        axes = [
            (axis, self._trace.of_weight(node, _own_name(ours.name), axis, pair))
            for axis, pair in enumerate(zip(ours.dims, changed.dims, strict=True))
            if pair[0] != pair[1]
        ]

        def cut(lengths: Lengths) -> Any:
            part = array
            for axis, number in axes:
                part = part.take(np.arange(number(lengths)), axis=axis)
            return onnx.numpy_helper.from_array(np.ascontiguousarray(part), ours.name)

        return cut

    def _recount(self, node: Any, ours: Any, changed: Any) -> Callable[[Lengths], Any]:
        """Writes a constant of lengths anew."""
        old, new = (onnx.numpy_helper.to_array(tensor) for tensor in (ours, changed))
        pairs = [(int(a), int(b)) for a, b in zip(old.reshape(-1), new.reshape(-1), strict=True)]
        changed = [place for place, (one, two) in enumerate(pairs) if one != two]
        if node.op_type == "Pad":
            rank = len(pairs) // 2
            sides = sorted(
                {side for place in changed for side in (place % rank, place % rank + rank)}
            )
            numbers = [(side, self._trace.of_padding(node, side, rank)) for side in sides]
        else:
            numbers = [(place, self._trace.in_node(node, pairs[place])) for place in changed]

        def recount(lengths: Lengths) -> Any:
            values = old.copy().reshape(-1)
            for place, number in numbers:
                values[place] = number(lengths)
            return onnx.numpy_helper.from_array(values.reshape(old.shape), ours.name)

        return recount

    def _traced_attributes(
        self, other: Any
    ) -> Iterator[tuple[int, int, list[tuple[int, _Number]]]]:
        for index, (ours, theirs) in enumerate(
            zip(self._model.graph.node, other.node, strict=True)
        ):
            for place, (one, two) in enumerate(zip(ours.attribute, theirs.attribute, strict=True)):
                if one == two or one.type in _NO_LENGTHS:
                    continue
                old, new = _whole_numbers(one), _whole_numbers(two)
                if not old or len(old) != len(new):
                    raise Untraceable(f"attribute {one.name} of {ours.name}")
                numbers = [
                    (position, self._trace.in_node(ours, (a, b)))
                    for position, (a, b) in enumerate(zip(old, new, strict=True))
                    if a != b
                ]
                if numbers:
                    yield index, place, numbers


class _Tracer:
    """Finds the dimension behind a number that the two files have in different sizes."""

    def __init__(self, dims: NetworkDims, lengths: tuple[Lengths, Lengths]) -> None:
        self._dims = dims
        self._lengths = lengths

    def of_weight(self, node: Any, name: str, axis: int, pair: tuple[int, int]) -> _Number:
        """The dimension along an axis of a weight; by name, where it kept its name and place."""
        known = self._dims.tensors.get(name, ())
        is_known = axis < len(known) and known[axis] in self._around(node)
        if is_known and self._pair(known[axis]) == pair:
            return _share_of(known[axis], 1, 1)
        return self.in_node(node, pair)

    def in_node(self, node: Any, pair: tuple[int, int]) -> _Number:
        """The dimension behind a number of a node, from those that it deals with."""
        for fits in (_is_equal, _is_share, _is_multiple):
            for dim in self._around(node):
                whole = self._pair(dim)
                if fits(pair, whole):
                    shared = math.gcd(pair[0], whole[0])
                    return _share_of(dim, pair[0] // shared, whole[0] // shared)
        raise Untraceable(f"{pair[0]} in {node.name}, which became {pair[1]}")

    def of_padding(self, node: Any, side: int, rank: int) -> _Number:
        """What is added before (sides below ``rank``) or after a dimension.

        Which side loses how much does not matter for time: half goes before, the rest after.
        """
        dims = self._dims.padded.get(self._source(node), ())
        if len(dims) != rank:
            raise Untraceable(f"padding of {node.name}")
        before, after = dims[side % rank]
        is_rest = side >= rank

        def padding(lengths: Lengths) -> int:
            added = int(lengths[after]) - int(lengths[before])
            return added - added // 2 if is_rest else added // 2

        return padding

    def _around(self, node: Any) -> tuple[int, ...]:
        return self._dims.nodes.get(self._source(node), ())

    def _source(self, node: Any) -> str:
        found = (entry.value for entry in node.metadata_props if entry.key == SOURCE_KEY)
        return next(found, "")

    def _pair(self, dim: int) -> tuple[int, int]:
        return int(self._lengths[0][dim]), int(self._lengths[1][dim])


def _share_of(dim: int, times: int, parts: int) -> _Number:
    return lambda lengths: int(lengths[dim]) * times // parts


def _is_equal(pair: tuple[int, int], whole: tuple[int, int]) -> bool:
    return pair == whole


def _is_share(pair: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Such as the number of groups of a convolution, of its channels."""
    return pair[0] > 1 and whole[0] % pair[0] == 0 and pair[0] * whole[1] == pair[1] * whole[0]


def _is_multiple(pair: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Such as queries, keys and values in one, of a head's."""
    return whole[0] > 1 and pair[0] % whole[0] == 0 and pair[0] * whole[1] == pair[1] * whole[0]


def _require_same_nodes(ours: Any, theirs: Any) -> None:
    """Both graphs have the same nodes with the same connections, whatever the values are called.

    Raises:
        Untraceable: They have not.
    """
    if len(ours.node) != len(theirs.node):
        raise Untraceable(f"{len(ours.node)} nodes and {len(theirs.node)}")
    names: dict[str, str] = {}
    for one, two in zip(ours.node, theirs.node, strict=True):
        is_same = (one.op_type, len(one.input), len(one.output), len(one.attribute)) == (
            two.op_type, len(two.input), len(two.output), len(two.attribute),
        )  # fmt: skip
        if not is_same or any(
            names.get(name, other) != other
            for name, other in zip(one.input, two.input, strict=True)
        ):
            raise Untraceable(f"{one.op_type} {one.name}")
        names |= dict(zip(one.output, two.output, strict=True))


def _give_each_reader_its_own(graph: Any) -> None:
    """Undo the sharing of equal constants, which differ at other widths (changes ``graph``)."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    num_readers: Counter[str] = Counter()
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in constants:
                continue
            num_readers[name] += 1
            if num_readers[name] > 1:
                copy = graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[place] = f"{name}{_COPY}{num_readers[name]}"


def _own_name(name: str) -> str:
    """The name of a constant before it was copied."""
    return name.partition(_COPY)[0]


def _whole_numbers(attribute: Any) -> list[int]:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.INT:
        return [attribute.i]
    if attribute.type == kinds.INTS:
        return list(attribute.ints)
    return []


def _set_numbers(attribute: Any, numbers: Sequence[tuple[int, _Number]], lengths: Lengths) -> None:
    """Write numbers into an attribute (changes it)."""
    for position, number in numbers:
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = number(lengths)
        else:
            attribute.ints[position] = number(lengths)


# ---- takes residual branches out of an ONNX graph: what read their sum reads the shortcut instead


_RECTIFIER = "Relu"


def cut_branches(graph: Any, cuts: Sequence[BranchCut]) -> None:
    """Remove branches, and rectifiers that then have nothing left to do (changes ``graph``).

    Raises:
        ExportError: The file does not show which operand of a sum is the branch.
    """
    producers = {name: node for node in graph.node for name in node.output}
    sums = {_source(node): node for node in graph.node if node.op_type == "Add"}
    renamed: dict[str, str] = {}

    def now(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    for cut in cuts:
        total = sums.get(cut.total)
        stays = [] if total is None else [
            name for name in total.input if _source(producers.get(name)) not in cut.nodes
        ]  # fmt: skip
        if total is None or len(stays) != 1:
            raise ExportError(f"the file has no sum '{cut.total}' to cut a branch off")
        renamed[total.output[0]] = stays[0]
        for node in graph.node:
            if node.op_type != _RECTIFIER or node.input[0] != total.output[0]:
                continue
            before = producers.get(now(stays[0]))
            if before is not None and before.op_type == _RECTIFIER:
                renamed[node.output[0]] = node.input[0]
    if any(output.name in renamed for output in graph.output):
        raise ExportError("the file's output is a sum without its branch")
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = now(name)
    _drop_unread(graph)


def _source(node: Any) -> str:
    """The node of the torch graph that an ONNX node came from."""
    entries = node.metadata_props if node is not None else ()
    return next((entry.value for entry in entries if entry.key == SOURCE_KEY), "")


def _drop_unread(graph: Any) -> None:
    """Remove nodes and constants that nothing reads (changes ``graph``)."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    kept.reverse()
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
