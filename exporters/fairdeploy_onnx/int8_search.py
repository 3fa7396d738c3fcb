"""Which INT8 file: the ranges that hold best on images held out, and what has to stay in float.

A third of the calibration batches gives the ranges, the others judge. Everything is tried with all
operators quantised first, then with products only, each with weights of 8 bits and of 7: on x86
processors without VNNI sums of 8-bit products overflow. If the answers still differ for more images
than allowed, or a column of an output is off by too much of its own spread, results of matrix
products are left in float; after that whole layers, those that err most by themselves: one, two,
four, …, at most half, and then as few as that allows. What joins values of other scales at the end
of the network is in float from the start (``float_tail``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.deployment.output_columns import compare_columns
from fairdeploy.errors import ExportError
from fairdeploy.tasks.classification import Classification
from fairdeploy_onnx.float_tail import float_tail, leave_in_float
from fairdeploy_onnx.model_files import (
    MAIN_OUTPUT_KEY,
    PRECISION_KEY,
    Batch,
    metadata_of,
    opened,
    run_batch,
)
from fairdeploy_onnx.quantization import (
    EXTENTS,
    METHODS,
    PRODUCTS,
    Extent,
    Scheme,
    quantized,
    value_ranges,
)

DISAGREEMENT_PER_DROP = 2.0
"""Where an answer changes, at most every second time a right one is lost: the others were wrong
before, or change from wrong to right."""
MAX_MAP_ERROR = 0.1
"""Of outputs that are no class scores, relative to their own size."""
MAX_COLUMN_ERROR = 0.15
"""Of any column of any output, relative to its own spread."""
_CLASSES_KEY = "fairdeploy.classes"
_MATRIX = 2
_MEASURE_EVERY = 3
_MAP_BATCHES = 2
"""Maps are large, and one says as much as many scores."""
_FINENESS = 8
"""The number of layers in float is found to an eighth of itself."""
_TINY = 1e-30

Outputs = list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How closely a quantised network follows the float one."""

    disagreement: float | None
    """Share of images with another class; None: the output holds no classes."""
    error: float
    """Root mean square of the difference of the main output, relative to that of the output."""
    column_error: float = 0.0
    """Of the column that is furthest off, over all outputs; see ``output_columns``."""
    is_broken: bool = False
    """Whether a column became constant, or lost half of its range."""

    def is_within(self, max_drop: float) -> bool:
        """Whether it may be taken to lose no more than ``max_drop`` of accuracy."""
        if self.is_broken or not self.column_error <= MAX_COLUMN_ERROR:
            return False
        if self.disagreement is None:
            return self.error <= MAX_MAP_ERROR
        return self.disagreement <= DISAGREEMENT_PER_DROP * max_drop

    def rank(self) -> tuple[bool, float, float]:
        """The smaller the better."""
        is_off = self.is_broken or not self.column_error <= MAX_COLUMN_ERROR
        return (is_off, self.disagreement or 0.0, max(self.error, self.column_error))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One INT8 network, and how it was made."""

    model: Any
    method: str
    extent: Extent
    kept: tuple[str, ...]
    has_7_bit_weights: bool
    fidelity: Fidelity

    def metadata(self, scheme: Scheme) -> dict[str, str]:
        """What the file says about it."""
        return {
            PRECISION_KEY: scheme.name,
            "fairdeploy.int8_ranges": self.method,
            "fairdeploy.int8_weight_bits": "7" if self.has_7_bit_weights else "8",
            "fairdeploy.int8_operators": self.extent.name,
            "fairdeploy.int8_kept_in_float": json.dumps(self.kept),
        }


class Int8Search:
    """Makes INT8 networks of one float network and judges them."""

    def __init__(self, model: Any, scheme: Scheme, batches: Sequence[Batch]) -> None:
        """Split ``batches``; ``model`` is from ``foldable_copy``."""
        self._model = model
        self._scheme = scheme
        # The calibrators take batches of one size only.
        equal = [batch for batch in batches if len(batch[0]) == len(batches[0][0])]
        self._measured = equal[::_MEASURE_EVERY]
        self._judging = [b for i, b in enumerate(equal) if i % _MEASURE_EVERY] or equal
        told = metadata_of(model)
        self._main = int(told.get(MAIN_OUTPUT_KEY, "0"))
        if _rank_of_output(model, self._main) != _MATRIX:
            self._judging = self._judging[:_MAP_BATCHES]
        self._expected = self._outputs(model, self._judging)
        self._has_classes = _has_classes(self._expected[self._main], told.get(_CLASSES_KEY))
        self._tail = float_tail(model, self._expected, self._judging[0])
        self._ranges: dict[str, Any] = {}

    def best(self, max_drop: float) -> Candidate:
        """The first that keeps within ``max_drop``, else the closest one there is."""
        found: list[Candidate] = []
        for extent in EXTENTS:
            tried = [made for method in METHODS for made in self._attempt(method, extent)]
            best = min(tried, key=_rank)
            coarse = self._candidate(best.method, extent, has_7_bit_weights=True)
            found.append(min(best, coarse, key=_rank))
            if found[-1].fidelity.is_within(max_drop):
                return found[-1]
        start = min(found, key=_rank)
        found += self._with_fewest_in_float(start, max_drop)
        return next(
            (f for f in reversed(found) if f.fidelity.is_within(max_drop)), min(found, key=_rank)
        )

    def _with_fewest_in_float(self, start: Candidate, max_drop: float) -> list[Candidate]:
        """Candidates with layers in float, the last the one within that has the fewest."""
        names = self._by_error(start)
        found: list[Candidate] = []
        too_few, enough = 0, 0
        while not enough and max(1, 2 * too_few) <= len(names) // 2:
            count = max(1, 2 * too_few)
            found.append(self._keeping(start, names[:count]))
            if found[-1].fidelity.is_within(max_drop):
                enough = count
            else:
                too_few = count
        while enough - too_few > max(1, enough // _FINENESS):
            count = (too_few + enough) // 2
            made = self._keeping(start, names[:count])
            if made.fidelity.is_within(max_drop):
                found.append(made)
                enough = count
            else:
                found.insert(0, made)
                too_few = count
        return found

    def _attempt(self, method: str, extent: Extent) -> tuple[Candidate, ...]:
        """One candidate; none where the histogram of a method fails, as it does on zeros alone."""
        try:
            return (self._candidate(method, extent),)
        except ExportError:
            raise
        except Exception:  # the calibrators raise many kinds
            if method == METHODS[0]:
                raise
            return ()

    def _candidate(
        self,
        method: str,
        extent: Extent,
        kept: Sequence[str] = (),
        *,
        has_7_bit_weights: bool = False,
    ) -> Candidate:
        model = quantized(
            self._model, self._range(method), self._scheme, extent,
            kept=(*kept, *self._tail.nodes), has_7_bit_weights=has_7_bit_weights,
        )  # fmt: skip
        leave_in_float(model, self._tail.values)
        fidelity = self._fidelity(self._expected, self._outputs(model, self._judging))
        return Candidate(model, method, extent, tuple(kept), has_7_bit_weights, fidelity)

    def _keeping(self, start: Candidate, kept: Sequence[str]) -> Candidate:
        return self._candidate(
            start.method, start.extent, kept, has_7_bit_weights=start.has_7_bit_weights
        )

    def _by_error(self, start: Candidate) -> list[str]:
        """Products by the error that each makes when it alone is quantised, largest first."""
        batches = self._judging[:2]
        expected = self._outputs(self._model, batches)
        errors = {}
        for node in self._model.graph.node:
            if node.op_type in PRODUCTS:
                alone = quantized(
                    self._model, self._range(start.method), self._scheme, start.extent,
                    only=[node.name], has_7_bit_weights=start.has_7_bit_weights,
                )  # fmt: skip
                leave_in_float(alone, self._tail.values)
                found = self._fidelity(expected, self._outputs(alone, batches))
                errors[node.name] = max(found.error, found.column_error)
        return sorted(errors, key=lambda name: -errors[name])

    def _range(self, method: str) -> Any:
        if method not in self._ranges:
            self._ranges[method] = value_ranges(self._model, method, self._measured)
        return self._ranges[method]

    def _fidelity(self, expected: Outputs, got: Outputs) -> Fidelity:
        return fidelity_of(expected, got, self._main, has_classes=self._has_classes)

    def _outputs(self, model: Any, batches: Sequence[Batch]) -> Outputs:
        """All outputs; of maps beside the main output those of the first batches."""
        session = opened(model)
        found: list[Outputs] = []
        for number, batch in enumerate(batches):
            outputs = run_batch(session, batch)
            found.append(
                [
                    array if number < _MAP_BATCHES or self._is_whole(place, array) else array[:0]
                    for place, array in enumerate(outputs)
                ]
            )
        return [_joined(pieces) for pieces in zip(*found, strict=True)]

    def _is_whole(self, place: int, array: NDArray[Any]) -> bool:
        return place == self._main or array.ndim <= _MATRIX


def fidelity_of(
    expected: Outputs, got: Outputs, main: int = 0, *, has_classes: bool = True
) -> Fidelity:
    """Compare outputs, images first."""
    ours, theirs = (outputs[main].astype(np.float64) for outputs in (expected, got))
    error = float(np.sqrt(((theirs - ours) ** 2).mean() / max((ours**2).mean(), _TINY)))
    columns = compare_columns(expected, got)
    disagreement = None
    if has_classes and ours.ndim == _MATRIX:
        disagreement = float((theirs.argmax(1) != ours.argmax(1)).mean())
    return Fidelity(disagreement, error, columns.error, bool(columns.problems))


def _joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array of all images; the first piece where there are no images in it."""
    if pieces[0].ndim == 0 or len({piece.shape[1:] for piece in pieces}) > 1:
        return pieces[0]
    return np.concatenate(pieces)


def _has_classes(scores: NDArray[Any], told: str | None) -> bool:
    """Whether the largest score is the answer: the classes have names, or there are many."""
    has_names = bool(told and json.loads(told))
    return Classification(is_known=has_names or None).has_classes(scores.shape)


def _rank_of_output(model: Any, place: int) -> int:
    return len(model.graph.output[place].type.tensor_type.shape.dim)


def _rank(candidate: Candidate) -> tuple[bool, float, float]:
    return candidate.fidelity.rank()
