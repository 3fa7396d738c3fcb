"""The sizes that torch's own layers remember, from the shapes of their tensors."""

from __future__ import annotations

from torch import Tensor, fx, nn

from fairdeploy.graph.call_facts import argument
from fairdeploy.graph.capture.functionalize import op_name
from fairdeploy.surgery.own_class.layer_sizes import set_norm_sizes, set_recurrent_sizes

_GROUPS_ARGUMENT = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), 6),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 6),
    "convolution": 8,
}


def set_layer_sizes(module: nn.Module, shrunk: fx.GraphModule) -> None:
    """Set the size attributes of layers, and of their subclasses (changes ``module``)."""
    groups = _groups_of_convolutions(shrunk)
    norm_groups = _groups_of_group_norms(shrunk)
    for name, layer in module.named_modules():
        set_recurrent_sizes(layer)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = weight.shape
        elif isinstance(layer, nn.Bilinear):
            layer.out_features, layer.in1_features, layer.in2_features = weight.shape
        elif isinstance(layer, nn.modules.conv._ConvNd):
            layer.groups = groups.get(name, layer.groups)
            first, second = weight.shape[:2]
            if layer.transposed:
                layer.in_channels, layer.out_channels = first, second * layer.groups
            else:
                layer.in_channels, layer.out_channels = second * layer.groups, first
        elif isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.num_features = weight.shape[0]
        elif isinstance(layer, nn.Embedding):
            layer.num_embeddings, layer.embedding_dim = weight.shape
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = weight.shape[0]
        else:
            set_norm_sizes(layer, weight)
            if isinstance(layer, nn.GroupNorm):
                layer.num_groups = norm_groups.get(name, layer.num_groups)


def _groups_of_convolutions(shrunk: fx.GraphModule) -> dict[str, int]:
    """Module path of each convolution to its number of groups."""
    found = {}
    for node in shrunk.graph.nodes:
        index = _GROUPS_ARGUMENT.get(op_name(node)) if node.op == "call_function" else None
        if index is not None:
            groups = argument(node, index, "groups", 1)
            if isinstance(node.args[1], fx.Node) and isinstance(groups, int):
                found[str(node.args[1].target).removesuffix(".weight")] = groups
    return found


def _groups_of_group_norms(shrunk: fx.GraphModule) -> dict[str, int]:
    found = {}
    for node in shrunk.graph.nodes:
        if node.op == "call_function" and op_name(node) == "group_norm":
            weight = argument(node, 2, "weight")
            if isinstance(weight, fx.Node) and isinstance(node.args[1], int):
                found[str(weight.target).removesuffix(".weight")] = node.args[1]
    return found
