"""Recurrent layers: a hidden unit is a row of every gate and a column of what reads it.

A unit's own gates read it element by element, everything else through the columns of ``weight_hh``,
of the next layer's ``weight_ih``, and of what follows. With those at zero it is gone. The operator
has one hidden size for all its layers and directions, so each of them loses the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from fairdeploy.graph.call_facts import UnlabelledError
from fairdeploy.graph.operators import kind_of, op_name
from fairdeploy.graph.walk.label_grids import simplified
from fairdeploy.graph.walk.labels import Labels
from fairdeploy.graph.walk.propagation import READS_FIXED, Propagation, Value
from fairdeploy.graph.walk.rules.registry import rule

_SEQUENCE = "a recurrent layer runs along this dimension"


@dataclass(frozen=True, slots=True)
class RecurrentWeights:
    """Parameters of one layer in one direction; ``None`` where it has none."""

    weight_ih: fx.Node
    """[gates * hidden, inputs]"""
    weight_hh: fx.Node
    """[gates * hidden, hidden], or [gates * hidden, projected]"""
    biases: tuple[fx.Node, ...]
    weight_hr: fx.Node | None
    """[projected, hidden]"""


@dataclass(frozen=True, slots=True)
class RecurrentCall:
    """A call of ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu`` on a padded batch."""

    data: fx.Node
    states: tuple[fx.Node, ...]
    """Initial hidden state, and the cell state of an LSTM: [layers * directions, batch, units]."""
    layers: tuple[tuple[RecurrentWeights, ...], ...]
    """By layer, then direction."""

    @property
    def matrices(self) -> tuple[fx.Node, ...]:
        """Every weight matrix; each step multiplies with each."""
        cells = [cell for layer in self.layers for cell in layer]
        return tuple(
            matrix
            for cell in cells
            for matrix in (cell.weight_ih, cell.weight_hh, cell.weight_hr)
            if matrix is not None
        )


def recurrent_call(node: fx.Node) -> RecurrentCall | None:
    """The arguments of a recurrent layer by their meaning; None for cells and packed sequences."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._overloadname != "input":
        return None
    data, states, tensors, has_biases, num_layers, _, _, is_bidirectional = node.args[:8]
    assert isinstance(data, fx.Node)
    assert isinstance(tensors, (list, tuple))
    assert isinstance(num_layers, int)
    num_directions = 2 if is_bidirectional else 1
    per_cell = len(tensors) // (num_layers * num_directions)
    nodes = [tensor for tensor in tensors if isinstance(tensor, fx.Node)]
    num_biases = 2 if has_biases else 0
    cells = [
        RecurrentWeights(
            nodes[start],
            nodes[start + 1],
            tuple(nodes[start + 2 : start + 2 + num_biases]),
            nodes[start + 4 if has_biases else start + 2] if per_cell > 2 + num_biases else None,
        )
        for start in range(0, len(nodes), per_cell)
    ]
    given = states if isinstance(states, (list, tuple)) else [states]
    return RecurrentCall(
        data,
        tuple(state for state in given if isinstance(state, fx.Node)),
        tuple(
            tuple(cells[at : at + num_directions]) for at in range(0, len(cells), num_directions)
        ),
    )


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(walk: Propagation, node: fx.Node) -> Value:
    """Whole stacks of layers in one call."""
    call = recurrent_call(node)
    if call is None:
        raise UnlabelledError("packed sequences have no rule")
    data = walk.dims(call.data)
    last = len(data) - 1
    for labels in data[:last]:
        walk.freeze(labels, _SEQUENCE)
    walk.contract(node, call.data, last)
    cells = [cell for layer in call.layers for cell in layer]
    hidden = _balanced(walk, [_hidden_units(walk, cell) for cell in cells])
    outputs = hidden
    if cells[0].weight_hr is not None:
        outputs = _balanced(walk, [walk.dims(cell.weight_hr)[0] for cell in cells])
    into, number = data[last], 0
    for layer in call.layers:
        here = range(number, number + len(layer))
        for cell, index in zip(layer, here, strict=True):
            _tie_cell(walk, node, cell, into, hidden[index], outputs[index])
        into = np.concatenate([outputs[index] for index in here])
        number += len(layer)
    finals = [
        _state(walk, node, state, units)
        for state, units in zip(call.states, (outputs, hidden), strict=False)
    ]
    return [(*data[:last], into), *finals]


def _balanced(walk: Propagation, units: list[Labels]) -> Labels:
    """Labels of all cells, [cells, units], of which each cell loses as many."""
    rows = np.stack(units)
    if len(rows) > 1 and not walk.balance(rows, is_required=True):
        walk.tie_rows(rows)
    return rows


def _state(walk: Propagation, node: fx.Node, state: fx.Node, rows: Labels) -> Value:
    """Labels of a final state, [cells, batch, units], which the initial one is tied to."""
    batch = walk.dims(state)[1]
    walk.freeze(batch, _SEQUENCE)
    units = simplified(rows[:, None, :], 2)
    dims = (walk.fixed(len(rows)), walk.fixed(len(batch)), units)
    if kind_of(state) == "fill" and set(state.users) == {node}:
        walk.values[state] = dims  # equal elements: any labels will do
    else:
        walk.freeze(walk.dims(state)[0], _SEQUENCE)
        walk.tie(walk.dims(state)[2], units)
    return dims


def _hidden_units(walk: Propagation, cell: RecurrentWeights) -> Labels:
    """Labels of the hidden units: of the rows of the first gate."""
    if cell.weight_hr is not None:
        return walk.dims(cell.weight_hr)[1]
    num_units = len(walk.dims(cell.weight_hh)[1])
    return np.ascontiguousarray(walk.dims(cell.weight_ih)[0][:num_units])


def _tie_cell(
    walk: Propagation,
    node: fx.Node,
    cell: RecurrentWeights,
    into: Labels,
    hidden: Labels,
    outputs: Labels,
) -> None:
    weight_ih, weight_hh = walk.dims(cell.weight_ih), walk.dims(cell.weight_hh)
    biases = [walk.dims(bias)[0] for bias in cell.biases]
    for rows in (weight_ih[0], weight_hh[0], *biases):
        for gate in rows.reshape(-1, len(hidden)):
            walk.tie(hidden, np.ascontiguousarray(gate))
    walk.tie(into, weight_ih[1], READS_FIXED)
    walk.tie(outputs, weight_hh[1])
    walk.contract(node, cell.weight_ih, 1, is_alone=True)
    walk.contract(node, cell.weight_hh, 1, is_alone=True)
    if cell.weight_hr is not None:
        projection = walk.dims(cell.weight_hr)
        walk.tie(outputs, projection[0])
        walk.tie(hidden, projection[1])
        walk.contract(node, cell.weight_hr, 1, is_alone=True)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_cell(walk: Propagation, node: fx.Node) -> Value:
    """One step of one layer."""
    data, states, weight_ih, weight_hh, *biases = node.args
    given = states if isinstance(states, (list, tuple)) else [states]
    assert isinstance(weight_ih, fx.Node)
    assert isinstance(weight_hh, fx.Node)
    dims = walk.dims(data)
    hidden = walk.dims(weight_hh)[1]
    cell = RecurrentWeights(
        weight_ih, weight_hh, tuple(bias for bias in biases if isinstance(bias, fx.Node)), None
    )
    walk.contract(node, data, len(dims) - 1)
    _tie_cell(walk, node, cell, dims[-1], hidden, hidden)
    for state in given:
        walk.tie(walk.dims(state)[-1], hidden)
    result = (*dims[:-1], hidden)
    return [result, result] if op_name(node) == "lstm_cell" else result
