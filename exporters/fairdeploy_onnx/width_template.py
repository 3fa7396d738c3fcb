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

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fairdeploy.records import NetworkDims
from fairdeploy_onnx.node_sources import SOURCE_KEY

Lengths = NDArray[np.int64]
_Number = tuple[int, int]
"""Which dimension, and how many times its length."""
_MAX_MULTIPLE = 4
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
        self._trace = _Tracer(self._model.graph, dims, lengths)
        _require_same_nodes(self._model.graph, other.graph)
        self._cuts = dict(self._traced_tensors(other.graph))
        self._attributes = list(self._traced_attributes(other.graph))

    def write(self, path: Path, lengths: Lengths) -> None:
        """Write the file with these lengths, shape [D], to ``path``."""
        model = onnx.ModelProto()
        model.CopyFrom(self._without_weights())
        for tensor in self._model.graph.initializer:
            change = self._cuts.get(tensor.name)
            model.graph.initializer.append(change(lengths) if change else tensor)
        for node, attribute, numbers in self._attributes:
            _set_numbers(model.graph.node[node].attribute[attribute], numbers, lengths)
        # shapes of the values in between: the runtime infers them
        del model.graph.value_info[:]
        onnx.save(model, path)

    def _without_weights(self) -> Any:
        bare = onnx.ModelProto()
        bare.CopyFrom(self._model)
        del bare.graph.initializer[:]
        return bare

    def _traced_tensors(self, other: Any) -> Iterator[tuple[str, Callable[[Lengths], Any]]]:
        theirs = {tensor.name: tensor for tensor in other.initializer}
        if set(theirs) != {tensor.name for tensor in self._model.graph.initializer}:
            raise Untraceable("other constants")
        for ours in self._model.graph.initializer:
            changed = theirs[ours.name]
            if list(ours.dims) != list(changed.dims):
                yield ours.name, self._cut(ours, changed)
            elif ours.data_type == onnx.TensorProto.INT64 and ours != changed:
                yield ours.name, self._recount(ours, changed)

    def _cut(self, ours: Any, changed: Any) -> Callable[[Lengths], Any]:
        """Cuts a weight along the dimensions that differ."""
        if ours.data_type == onnx.TensorProto.INT64:
            raise Untraceable(f"a table of places ({ours.name})")
        array = onnx.numpy_helper.to_array(ours)
        axes = [
            (axis, self._trace.of_weight(ours.name, axis, pair))
            for axis, pair in enumerate(zip(ours.dims, changed.dims, strict=True))
            if pair[0] != pair[1]
        ]

        def cut(lengths: Lengths) -> Any:
            part = array
            for axis, number in axes:
                part = part.take(np.arange(_value(number, lengths)), axis=axis)
            return onnx.numpy_helper.from_array(np.ascontiguousarray(part), ours.name)

        return cut

    def _recount(self, ours: Any, changed: Any) -> Callable[[Lengths], Any]:
        """Writes a constant of lengths anew."""
        old, new = (onnx.numpy_helper.to_array(tensor) for tensor in (ours, changed))
        numbers = self._numbers(ours.name, old.reshape(-1).tolist(), new.reshape(-1).tolist())

        def recount(lengths: Lengths) -> Any:
            values = old.copy().reshape(-1)
            for place, number in numbers:
                values[place] = _value(number, lengths)
            return onnx.numpy_helper.from_array(values.reshape(old.shape), ours.name)

        return recount

    def _numbers(
        self, name: str, old: Sequence[int], new: Sequence[int]
    ) -> list[tuple[int, _Number]]:
        return [
            (place, self._trace.of_number(name, (int(one), int(two))))
            for place, (one, two) in enumerate(zip(old, new, strict=True))
            if one != two
        ]

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

    def __init__(self, graph: Any, dims: NetworkDims, lengths: tuple[Lengths, Lengths]) -> None:
        self._dims = dims
        self._lengths = lengths
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def of_weight(self, name: str, axis: int, pair: tuple[int, int]) -> _Number:
        """The dimension along an axis of a weight; by name, where it kept its name and place."""
        known = self._dims.tensors.get(name, ())
        if axis < len(known) and self._pair(known[axis]) == pair:
            return known[axis], 1
        return self.of_number(name, pair)

    def of_number(self, name: str, pair: tuple[int, int]) -> _Number:
        """The dimension behind a number in a constant, from those of the nodes that read it."""
        for node in self._readers[name]:
            try:
                return self.in_node(node, pair)
            except Untraceable:
                continue
        raise Untraceable(f"{pair[0]} in {name}, which became {pair[1]}")

    def in_node(self, node: Any, pair: tuple[int, int]) -> _Number:
        """The dimension behind a number of a node, from those that it deals with."""
        source = next((entry.value for entry in node.metadata_props if entry.key == SOURCE_KEY), "")
        around = self._dims.nodes.get(source, ())
        for times in range(1, _MAX_MULTIPLE + 1):
            for dim in around:
                old, new = self._pair(dim)
                if (old * times, new * times) == pair:
                    return dim, times
        raise Untraceable(f"{pair[0]} in {node.name}, which became {pair[1]}")

    def _pair(self, dim: int) -> tuple[int, int]:
        return int(self._lengths[0][dim]), int(self._lengths[1][dim])


def _value(number: _Number, lengths: Lengths) -> int:
    dim, times = number
    return int(lengths[dim]) * times


def _require_same_nodes(ours: Any, theirs: Any) -> None:
    """Both graphs have the same nodes with the same connections."""
    same = len(ours.node) == len(theirs.node) and all(
        (one.op_type, list(one.input), list(one.output), len(one.attribute))
        == (two.op_type, list(two.input), list(two.output), len(two.attribute))
        for one, two in zip(ours.node, theirs.node, strict=True)
    )
    if not same:
        raise Untraceable("other nodes")


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
            attribute.i = _value(number, lengths)
        else:
            attribute.ints[position] = _value(number, lengths)
