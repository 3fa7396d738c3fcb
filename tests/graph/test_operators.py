"""The table of operators, held against the operators themselves."""

from __future__ import annotations

import pytest
import torch

from fairdeploy.graph import operators
from fairdeploy.graph.operators import row_of

VIEWS = {
    "slice": (0, 0, 2), "narrow": (0, 1, 1), "select": (0, 1), "split": (2,), "split_copy": (2,),
    "split_with_sizes": ([1, 3],), "split_with_sizes_copy": ([1, 3],), "chunk": (2,),
    "tensor_split": (2,), "unsafe_split": (2,), "unsafe_chunk": (2,), "view": ([6, 4],),
    "reshape": ([6, 4],), "_unsafe_view": ([6, 4],), "view_copy": ([6, 4],),
    "_reshape_alias": ([6, 4], [4, 1]), "unflatten": (0, [2, 2]), "unsqueeze": (1,),
    "unsqueeze_copy": (1,), "transpose": (0, 1), "transpose_copy": (0, 1), "swapaxes": (0, 1),
    "swapdims": (0, 1), "permute": ([1, 0],), "permute_copy": ([1, 0],), "movedim": (0, 1),
    "moveaxis": (0, 1), "expand": ([2, 4, 6],), "expand_copy": ([2, 4, 6],),
    "broadcast_to": ([2, 4, 6],), "expand_as": (torch.zeros(2, 4, 6),),
    "view_as": (torch.zeros(6, 4),), "reshape_as": (torch.zeros(6, 4),),
}  # fmt: skip
"""What each takes beside a tensor of [4, 6]."""


@pytest.mark.parametrize(
    "name", sorted(n for n, row in operators._TABLE.items() if row.kind in operators._MOVES)
)
def test_views_hold_numbers_of_their_argument_as_they_are(name: str) -> None:
    if name == "getitem":
        return
    data = torch.arange(24.0).reshape(4, 6)
    result = getattr(torch.ops.aten, name)(data, *VIEWS.get(name, ()))
    for piece in result if isinstance(result, (list, tuple)) else [result]:
        assert set(piece.unique().tolist()) <= set(data.unique().tolist())
        assert piece.dtype == data.dtype


def test_inputs_and_stored_tensors_of_an_operators_name_are_of_no_kind() -> None:
    graph = torch.fx.Graph()
    nodes = [graph.placeholder("relu"), graph.get_attr("view")]
    assert [operators.kind_of(node) for node in nodes] == ["", ""]


@pytest.mark.parametrize("name", sorted(set(operators._TABLE) - {"getitem"}))
def test_rows_are_operators_whose_arguments_lie_where_the_table_says(name: str) -> None:
    packet = getattr(torch.ops.aten, name)
    row = row_of(name)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    for place, names in ((row.groups, {"groups"}), (row.sizes, {"size", "shape"})):
        if place is not None:
            assert any(
                len(schema.arguments) > place and schema.arguments[place].name in names
                for schema in schemas
            )
