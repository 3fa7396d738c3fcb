"""What each ATen operator is: the one table that everything asks which deals with calls by name.

Rules and rewrites (``walk.rules``) register themselves by the same names. An operator without a row
is of no kind; a rule may know it all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

Kind = Literal[
    "",
    "layer",  # op(data, weight, bias), a row of the weight for each output
    "transposed",  # transposed convolution: a row of the weight for each input
    "convolution",  # what both decompose to
    "product",
    "attention",
    "table",
    "recurrent",
    "cell",
    "batch norm",
    "activation",
    "comparison",
    "fill",  # equal elements, in any size
    "same",  # gives its argument back
    "dropout",  # does so in eval mode
    "cast",
    "reshape",
    "transpose",  # exchanges two dimensions: its own inverse
    "permute",
    "expand",
    "cut",
    "pieces",
    "join",
    "pad",
]
_MOVES = {"same", "reshape", "transpose", "permute", "expand", "cut", "pieces"}
_WEIGHTED = {"layer", "transposed", "convolution"}


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table."""

    kind: Kind = ""
    groups: int | None = None
    """Place of the number of groups among the arguments."""
    sizes: int | None = None
    """Place of the sizes of the result, where the call names them."""
    num_spatial: int = 0
    """Dimensions that a kernel slides over."""
    is_linear: bool = False
    """Whether it can be a linear layer: one matrix for all rows of the data."""
    is_batched: bool = False
    """Whether leading dimensions of its factors count products of matrices."""
    is_idempotent: bool = False
    """Whether a second call in a row changes nothing."""


def _rows(names: str, row: Operator) -> dict[str, Operator]:
    return dict.fromkeys(names.split(), row)


_TABLE = {
    **{f"conv{n}d": Operator("layer", groups=6, num_spatial=n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": Operator("transposed", groups=6, num_spatial=n) for n in (1, 2, 3)},
    "convolution": Operator("convolution", groups=8),
    "linear": Operator("layer", is_linear=True),
    **_rows("addmm mm", Operator("product", is_linear=True)),
    "matmul": Operator("product", is_linear=True, is_batched=True),
    **_rows("bmm baddbmm", Operator("product", is_batched=True)),
    **_rows("mv einsum", Operator("product")),
    "scaled_dot_product_attention": Operator("attention", is_batched=True),
    "embedding": Operator("table"),
    **_rows("lstm gru rnn_tanh rnn_relu", Operator("recurrent")),
    **_rows("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", Operator("cell")),
    **_rows("batch_norm _native_batch_norm_legit_no_training", Operator("batch norm")),
    **_rows("relu relu6 hardtanh clamp clamp_min", Operator("activation", is_idempotent=True)),
    **_rows("silu gelu hardswish leaky_relu prelu elu celu selu mish softplus sigmoid tanh "
            "hardsigmoid", Operator("activation")),
    **_rows("eq ne lt le gt ge logical_not logical_and logical_or logical_xor",
            Operator("comparison")),
    **_rows("zeros ones full empty", Operator("fill", sizes=0)),
    **_rows("new_zeros new_ones new_full new_empty", Operator("fill", sizes=1)),
    **_rows("alias clone contiguous detach detach_copy lift_fresh lift_fresh_copy",
            Operator("same")),
    **_rows("dropout feature_dropout alpha_dropout", Operator("dropout")),
    **_rows("to _to_copy type_as", Operator("cast")),
    **_rows("view reshape _unsafe_view view_copy _reshape_alias", Operator("reshape", sizes=1)),
    **_rows("flatten unflatten squeeze squeeze_copy unsqueeze unsqueeze_copy view_as reshape_as "
            "ravel", Operator("reshape")),
    **_rows("transpose transpose_copy t swapaxes swapdims numpy_T mT adjoint",
            Operator("transpose")),
    **_rows("permute permute_copy movedim moveaxis", Operator("permute")),
    **_rows("expand expand_copy broadcast_to", Operator("expand", sizes=1)),
    "expand_as": Operator("expand"),
    **_rows("slice slice_copy narrow select getitem", Operator("cut")),
    **_rows("split split_copy split_with_sizes split_with_sizes_copy chunk tensor_split unbind "
            "unsafe_split unsafe_chunk", Operator("pieces")),
    **_rows("cat concat concatenate stack", Operator("join")),
    **_rows("pad constant_pad_nd", Operator("pad")),
}  # fmt: skip
_UNKNOWN = Operator()


def op_name(node: fx.Node) -> str:
    """The ATen operator's name without overload (``add`` for ``aten.add.Tensor``)."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def row_of(name: str) -> Operator:
    """What an operator of this name is."""
    return _TABLE.get(name, _UNKNOWN)


def operator_of(node: fx.Node) -> Operator:
    """What a call's operator is; of no kind for inputs, stored tensors and the output."""
    return row_of(op_name(node)) if node.op == "call_function" else _UNKNOWN


def kind_of(node: fx.Node) -> Kind:
    """The kind of a call's operator."""
    return operator_of(node).kind


def is_view(node: fx.Node) -> bool:
    """Whether a call only moves memory: its result holds numbers of its argument, as they are."""
    return kind_of(node) in _MOVES


def gives_back(node: fx.Node) -> bool:
    """Whether a call gives its argument back, in eval mode."""
    return kind_of(node) in {"same", "dropout"}


def has_weight(node: fx.Node) -> bool:
    """Whether a call's second argument is the weight of a linear layer or a convolution."""
    return kind_of(node) in _WEIGHTED


def multiplies(name: str) -> bool:
    """Whether an operator multiplies with matrices or kernels, which may be stored ones."""
    return row_of(name).kind in {*_WEIGHTED, "product", "recurrent", "cell"}
