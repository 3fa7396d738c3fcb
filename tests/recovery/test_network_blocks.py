from __future__ import annotations

import torch
from torch import Tensor, nn

from fairdeploy.recovery.training.network_blocks import find_cuts, input_names, main_output, stretch
from tests.recovery.shrunk_networks import Pair, noise, shrink, shrink_channels, small_residual


class Stream(nn.Module):
    """Two blocks that add to a stream, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.ups = nn.ModuleList(nn.Conv2d(6, 10, 1) for _ in range(2))
        self.downs = nn.ModuleList(nn.Conv2d(10, 6, 1) for _ in range(2))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(nn.functional.gelu(up(x)))
        return self.head(x.mean((2, 3)))


def cut_nodes(pair: Pair) -> list[str]:
    return [cut.node for cut in find_cuts(pair.graph, pair.shrunk, pair.removed)]


def test_a_residual_network_is_cut_where_its_blocks_end() -> None:
    pair = shrink(small_residual(), 0.3)
    nodes = {node.name: node for node in pair.shrunk.graph.nodes}
    stem, block, output = cut_nodes(pair)
    assert nodes[stem].all_input_nodes[0].name == "batch_norm"
    assert nodes[block].all_input_nodes[0].name == "add"
    assert output == main_output(pair.shrunk, 0).name


def test_a_stream_is_cut_at_its_sums_and_not_inside_a_block() -> None:
    torch.manual_seed(0)
    stem, *sums, output = cut_nodes(shrink(Stream().eval(), 0.0))
    assert stem == "conv2d"
    assert sums == ["add", "add_1"]
    assert output == "linear"


def test_of_values_without_a_layer_in_between_the_largest_is_compared() -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )
    first, output = cut_nodes(shrink(plain.eval(), 0.0))
    assert (first, output) == ("relu", "linear")


def test_blocks_one_after_the_other_compute_what_the_network_computes() -> None:
    pair = shrink(small_residual(), 0.3)
    names, images = input_names(pair.shrunk), noise(5)
    source: tuple[str, ...] = ()
    values: tuple[Tensor, ...] = ()
    for node in cut_nodes(pair):
        values = stretch(pair.shrunk, (*names, *source), (node,))(images, *values)
        source = (node,)
    torch.testing.assert_close(values[0], pair.shrunk(images))


def test_a_stretch_shares_the_tensors_of_its_network() -> None:
    pair = shrink(small_residual(), 0.3)
    part = stretch(pair.shrunk, input_names(pair.shrunk), cut_nodes(pair)[:1])
    (before,) = part(noise(2))
    with torch.no_grad():
        pair.shrunk.get_parameter("stem_norm.weight").mul_(2)
        pair.shrunk.get_parameter("stem_norm.bias").mul_(2)
    (after,) = part(noise(2))
    torch.testing.assert_close(after, 2 * before)


def test_the_originals_value_is_compared_without_the_channels_that_went() -> None:
    pair = shrink_channels(small_residual(), "stem.weight", [1, 6])
    stem = find_cuts(pair.graph, pair.shrunk, pair.removed)[0]
    original = stretch(pair.graph.module, input_names(pair.graph.module), (stem.node,))
    (value,) = original(noise(3))
    kept = stem.kept_part(value)
    assert kept.shape == (3, 6, 8, 8)
    torch.testing.assert_close(kept, value[:, [0, 2, 3, 4, 5, 7]])
