"""Recurrent layers lose hidden units exactly, and nothing of a removed unit is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.graph.test_cost_terms import cost
from tests.surgery.exactness import shrink_exactly

SEQUENCES = torch.zeros(2, 5, 4)


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones; ``reads`` chooses which result is used."""

    def __init__(self, layer: nn.Module, width: int, reads: str = "sequence") -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(4, 6), layer, nn.Linear(width, 3)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        result, final = self.layer(self.embed(x).relu())
        if self.reads == "sequence":
            return self.head(result)
        if self.reads == "cell":
            return self.head(final[1][-1])
        if self.reads == "all finals":
            return self.head(final.transpose(0, 1).flatten(1))
        return self.head(final[-1])


LAYERS = {
    "lstm": (nn.LSTM(6, 8, batch_first=True), 8),
    "two layers": (nn.LSTM(6, 8, num_layers=2, batch_first=True), 8),
    "both ways": (nn.LSTM(6, 8, bidirectional=True, batch_first=True), 16),
    "two layers both ways": (nn.GRU(6, 8, 2, bidirectional=True, batch_first=True), 16),
    "no bias": (nn.LSTM(6, 8, bias=False, batch_first=True), 8),
    "projected": (nn.LSTM(6, 8, 2, proj_size=4, bidirectional=True, batch_first=True), 8),
    "gru": (nn.GRU(6, 8, batch_first=True), 8),
    "tanh": (nn.RNN(6, 8, batch_first=True), 8),
    "relu": (nn.RNN(6, 8, nonlinearity="relu", batch_first=True), 8),
    "dropout between": (nn.GRU(6, 8, 2, dropout=0.3, batch_first=True), 8),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_layer_shrinks_exactly(kind: str) -> None:
    layer, width = LAYERS[kind]
    shrunk = shrink_exactly(Recurrent(layer, width), SEQUENCES)
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[type(layer)]
    outputs = 2 if kind == "projected" else 4
    assert shrunk.shape("layer.weight_ih_l0") == (4 * gates, 3)
    assert shrunk.shape("layer.weight_hh_l0") == (4 * gates, outputs)
    assert shrunk.shape("head.weight") == (3, width // 2)


@pytest.mark.parametrize("reads", ["cell", "final"])
def test_final_states_shrink_with_the_layer(reads: str) -> None:
    layer = nn.LSTM(6, 8, batch_first=True) if reads == "cell" else nn.GRU(6, 8, batch_first=True)
    shrunk = shrink_exactly(Recurrent(layer, 8, reads), SEQUENCES)
    assert shrunk.shape("head.weight") == (3, 4)


def test_all_final_states_together_shrink_with_the_layer() -> None:
    layer = nn.GRU(6, 8, 2, batch_first=True)
    assert shrink_exactly(Recurrent(layer, 16, "all finals"), SEQUENCES).shape("head.weight") == (
        3,
        8,
    )


def test_gate_rows_of_a_unit_go_with_its_columns() -> None:
    graph = build_unit_graph(Recurrent(nn.LSTM(6, 8, batch_first=True), 8).eval(), (SEQUENCES,))
    group = next(group for group in graph.groups if group.name.startswith("layer"))
    places = {(member.tensor, member.dim): member for member in group.members}
    assert group.size == 8
    assert places["layer.weight_ih_l0", 0].positions[2].tolist() == [2, 10, 18, 26]
    assert places["layer.weight_hh_l0", 0].positions[2].tolist() == [2, 10, 18, 26]
    assert places["layer.weight_hh_l0", 1].positions[2].tolist() == [2]
    roles = {place: member.role for place, member in places.items()}
    assert roles["layer.weight_hh_l0", 1] == roles["head.weight", 1] == "consumes"
    assert roles["layer.weight_hh_l0", 0] == roles["layer.bias_hh_l0", 0] == "produces"


def test_each_layer_and_direction_may_lose_other_units_but_as_many() -> None:
    network = Recurrent(nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True), 16)
    shrunk = shrink_exactly(network, SEQUENCES)
    group = next(group for group in shrunk.graph.groups if group.name.startswith("layer"))
    assert group.blocks.shape == (4, 8)
    gone = [tuple(np.flatnonzero(shrunk.removed[block])) for block in group.blocks]
    assert [len(places) for places in gone] == [4, 4, 4, 4]
    assert len(set(gone)) > 1
    for name, places in zip(("l0", "l0_reverse", "l1", "l1_reverse"), gone, strict=True):
        kept = [unit for unit in range(8) if unit not in places]
        rows = [gate * 8 + unit for gate in range(4) for unit in kept]
        torch.testing.assert_close(
            shrunk.module.get_parameter(f"layer.weight_hh_{name}"),
            network.layer.get_parameter(f"weight_hh_{name}")[rows][:, kept],
        )


def test_initial_state_that_is_learned_shrinks_with_the_layer() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.zeros(1, 1, 8))
            self.layer, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            start = self.start.expand(-1, x.shape[0], -1).contiguous()
            return self.head(self.layer(x, start)[0])

    assert shrink_exactly(Learned(), SEQUENCES).shape("start") == (1, 1, 4)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_cells_that_are_called_step_by_step_shrink_exactly(kind: str) -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            cells = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}
            self.embed, self.cell, self.head = nn.Linear(4, 6), cells[kind](6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            state: Any = None
            for step in self.embed(x).unbind(1):
                state = self.cell(step, state)
            return self.head(state[0] if kind == "lstm" else state)

    shrunk = shrink_exactly(Unrolled(), SEQUENCES)
    assert shrunk.shape("cell.weight_hh")[1] == 4
    assert shrunk.shape("cell.weight_ih")[1] == 3


def test_recurrent_layer_comes_back_in_its_own_class() -> None:
    network = Recurrent(nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True), 16)
    shrunk = shrink_exactly(network, SEQUENCES)
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is not None, reason
    assert isinstance(own, Recurrent)
    assert own.layer.hidden_size == 4
    assert own.layer.input_size == 3


def test_input_size_that_equals_the_old_hidden_size_is_not_mistaken_for_it() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.Linear(4, 16), nn.GRU(16, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.embed(x).relu())[0])

    network = Narrow()
    shrunk = shrink_exactly(network, SEQUENCES)
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is not None, reason
    assert (own.layer.input_size, own.layer.hidden_size) == (8, 4)


def test_macs_of_a_recurrent_layer_count_every_matrix_at_every_step() -> None:
    network = Recurrent(nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True), 16).eval()
    graph = build_unit_graph(network, (SEQUENCES,))
    kept = [group.size for group in graph.groups]
    layers = 4 * 8 * 2 * ((6 + 8) + (16 + 8))
    assert cost(graph, "macs", kept) == 5 * (4 * 6 + layers + 16 * 3)
