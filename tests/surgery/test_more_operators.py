"""Operators beyond plain 2-d convolutions: each in its variants, shrunk exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.graph.units import build_unit_graph
from fairdeploy.inputs.torchvision_compat import ensure_torchvision
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.graph.test_cost_terms import cost
from tests.surgery.exactness import shrink_exactly

IMAGES = torch.zeros(2, 3, 6, 6)
INPUT = {1: torch.zeros(2, 3, 12), 2: IMAGES, 3: torch.zeros(2, 3, 4, 4, 4)}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOLS = {
    1: [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(2)],
    2: [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2)],
    3: [nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(2)],
}


class Calls(nn.Module):
    """A layer, then whatever is done with its output."""

    def __init__(self, then, *, out: int = 8, last: int = 8) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, out, 3, padding=1), nn.Conv2d(last, 2, 1)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.then(self.first(x)))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("pool", [0, 1, 2])
def test_convolution_norm_and_pool_of_any_rank_shrink_exactly(n: int, pool: int) -> None:
    network = nn.Sequential(
        CONV[n](3, 8, 3, padding="same", padding_mode="replicate"),
        NORM[n](8),
        nn.ReLU(),
        INSTANCE[n](8, affine=True),
        CONV[n](8, 8, 3, padding=1, groups=8),
        POOLS[n][pool],
        CONV[n](8, 6, 1, dilation=2),
        nn.PReLU(6),
        CONV[n](6, 2, 1),
    )
    shrunk = shrink_exactly(network, INPUT[n])
    assert shrunk.group_sizes() == {"0": 8, "6": 6}
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is not None, reason


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("groups", "units"), [(1, (8, 12)), (2, (4, 6)), (8, (8,)), (4, (4,))])
def test_transposed_convolution_shrinks_exactly(
    n: int, groups: int, units: tuple[int, ...]
) -> None:
    middle = {1: 12, 2: 12, 8: 16, 4: 4}[groups]
    network = nn.Sequential(
        CONV[n](3, 8, 1),
        TRANSPOSED[n](8, middle, 3, stride=2, output_padding=1, padding=1, groups=groups),
        nn.ReLU(),
        CONV[n](middle, 2, 1),
    )
    shrunk = shrink_exactly(network, INPUT[n])
    if groups != 4:
        assert tuple(sorted(shrunk.group_sizes().values())) == units
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert own is not None, reason
    macs = cost(shrunk.graph, "macs", [group.size for group in shrunk.graph.groups])
    space = INPUT[n][0, 0].numel()
    assert macs == space * (3 * 8 + 8 * (middle // groups) * 3**n + middle * 2 * 2**n)


SHUFFLES = {
    "shuffle": (nn.PixelShuffle(2), 8, 2, 2),
    "unshuffle": (nn.PixelUnshuffle(2), 4, 16, 4),
    "shuffle by hand": (
        lambda y: y.view(-1, 4, 2, 2, 6, 6).permute(0, 1, 4, 2, 5, 3).reshape(-1, 4, 12, 12),
        16,
        4,
        4,
    ),
    "unshuffle by hand": (
        lambda y: y.view(-1, 4, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 16, 3, 3),
        4,
        16,
        4,
    ),
    "space to depth": (
        lambda y: torch.cat(
            [y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1
        ),
        4,
        16,
        4,
    ),
}


@pytest.mark.parametrize("kind", SHUFFLES)
def test_pixels_moved_into_channels_and_back_keep_units_together(kind: str) -> None:
    then, out, last, units = SHUFFLES[kind]
    shrunk = shrink_exactly(Calls(then, out=out, last=last), IMAGES)
    assert shrunk.group_sizes() == {"first": units}


WEIGHT = torch.zeros(8, 5)
EINSUMS = {
    "linear": (lambda y, w: torch.einsum("bchw,cd->bdhw", y, w), 13),
    "ellipsis": (lambda y, w: torch.einsum("...c,cd->...d", y.permute(0, 2, 3, 1), w), 13),
    "no arrow": (lambda y, w: torch.einsum("bhwc,cd", y.permute(0, 2, 3, 1), w), 13),
    "ellipsis without arrow": (lambda y, w: torch.einsum("...c,cd", y.permute(0, 2, 3, 1), w), 13),
    "three operands": (
        lambda y, w: torch.einsum("bchw,cd,c->bdhw", y, w, w.sum(1)).permute(0, 2, 3, 1),
        13,
    ),
    "sum of one operand": (
        lambda y, w: torch.einsum("b c h w, e d -> b h w d", y, w),
        13,
    ),
}


@pytest.mark.parametrize("kind", EINSUMS)
def test_einsum_shrinks_exactly(kind: str) -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.weight = nn.Parameter(torch.zeros(8, 5))
            self.last = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = EINSUMS[kind][0](self.first(x), self.weight)
            return self.last(y.movedim(1, -1) if y.shape[1] == 5 else y)

    shrunk = shrink_exactly(Einsum(), IMAGES)
    assert shrunk.shape("first.weight")[0] == 4
    # a dimension that is only read anywhere, or summed too, has no unit of its own
    assert sum(shrunk.group_sizes().values()) == (8 if kind == "three operands" else 13)


def test_einsum_of_a_diagonal_freezes_it() -> None:
    network = Calls(lambda y: torch.einsum("bccw->bcw", y[:, :6])[..., None], out=6, last=6)
    graph = build_unit_graph(network.eval(), (IMAGES,))
    assert graph.num_units == 0
    assert any("einsum takes a diagonal" in group.reason for group in graph.frozen_groups)


def test_outer_and_batched_einsum_macs_are_counted() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(6, 8), nn.Linear(6, 8)
            self.last = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.einsum("...qd,...kd", self.q(x), self.k(x)))

    graph = build_unit_graph(Attend().eval(), (torch.zeros(2, 5, 6),))
    kept = [group.size for group in graph.groups]
    assert cost(graph, "macs", kept) == 2 * 5 * 6 * 8 + 5 * 5 * 8 + 5 * 5 * 2


def test_gated_linear_unit_loses_value_and_gate_together() -> None:
    shrunk = shrink_exactly(Calls(lambda y: F.glu(y, dim=1), out=8, last=4), IMAGES)
    assert shrunk.group_sizes() == {"first": 4}


def test_frozen_batch_norm_and_squeeze_excitation_shrink_exactly() -> None:
    ensure_torchvision()
    from torchvision.ops import FrozenBatchNorm2d, SqueezeExcitation

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), FrozenBatchNorm2d(8), nn.ReLU(),
        SqueezeExcitation(8, 4), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    shrunk = shrink_exactly(network, IMAGES)
    assert shrunk.group_sizes() == {"0": 8, "3.fc1": 4}
    assert shrunk.shape("1.running_var") == (4,)


class TwoInputs(nn.Module):
    """Image features scaled and shifted by what an embedded word says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table = nn.Conv2d(3, 8, 1), nn.Embedding(10, 6)
        self.film, self.last = nn.Linear(6, 16), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        scale, shift = self.film(self.table(word))[:, :, None, None].chunk(2, dim=1)
        return self.last(self.first(x) * scale + shift)


def test_channels_of_an_embedding_shrink_exactly() -> None:
    shrunk = shrink_exactly(TwoInputs(), IMAGES, torch.tensor([3, 7]))
    assert shrunk.group_sizes() == {"first": 8, "table": 6}
    assert shrunk.shape("table.weight") == (10, 3)


def test_embedding_tied_with_the_output_layer_shrinks_exactly() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix = nn.Embedding(10, 6), nn.Linear(6, 6)
            self.out = nn.Linear(6, 10, bias=False)
            self.out.weight = self.table.weight

        def forward(self, words: Tensor) -> Tensor:
            return self.out(self.mix(self.table(words)).tanh())

    shrunk = shrink_exactly(Tied(), torch.arange(10).reshape(2, 5))
    assert shrunk.shape("table.weight") == (10, 3)
    assert shrunk.shape("out.weight") == (10, 3)


def test_linear_layer_that_is_used_twice_shrinks_exactly() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.mix(self.mix(self.first(x)).relu()))

    assert shrink_exactly(Twice(), torch.zeros(2, 5)).group_sizes() == {"first": 8}


@pytest.fixture
def deform_conv2d():
    """torchvision's operator; beside a torch that it was not built for, a stand-in of that name."""
    ensure_torchvision()
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        whole = ", ".join(f"SymInt {name}" for name in (
            "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "groups",
            "offset_groups",
        ))  # fmt: skip
        _library.define(
            "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
            f"{whole}, bool use_mask) -> Tensor"
        )
        _library.impl("deform_conv2d", _undeformed, "CompositeExplicitAutograd")

    def call(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        mask, bias = x.new_zeros(0), x.new_zeros(len(weight))
        sizes = (1, 1, 1, 1, 1, 1, 1, 1)
        return torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, *sizes, False)

    return call


_library = torch.library.Library("torchvision", "FRAGMENT")


def _undeformed(x, weight, offset, mask, bias, *sizes) -> Tensor:
    return F.conv2d(x, weight, bias, sizes[:2], sizes[2:4]) + offset.mean()


def test_deformable_convolution_freezes_and_is_reported(deform_conv2d) -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.offset = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 18, 3, padding=1)
            self.weight = nn.Parameter(torch.zeros(4, 8, 3, 3))
            self.inner, self.last = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = deform_conv2d(x, self.offset(x), self.weight)
            return self.last(self.inner(y))

    shrunk = shrink_exactly(Deformable(), IMAGES)
    assert shrunk.group_sizes() == {"inner": 6}
    (freeze,) = [freeze for freeze in shrunk.graph.freezes if freeze.is_unknown_op]
    assert freeze.op == "deform_conv2d"
    assert "test_more_operators.py:" in freeze.source_line


@torch.library.custom_op("fairdeploy_tests::mix_all", mutates_args=())
def mix_all(parts: list[Tensor], extra: Tensor | None, name: str) -> list[Tensor]:
    """A custom operator with a list, something absent, and several results."""
    total = torch.stack([part.flip(1) for part in parts]).sum(0)
    return [total, total.sum(1)]


@mix_all.register_fake
def _(parts: list[Tensor], extra: Tensor | None, name: str) -> list[Tensor]:
    return [torch.empty_like(parts[0]), torch.empty_like(parts[0][:, 0])]


def test_custom_operator_with_lists_and_several_results_freezes_and_is_reported() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.inner = (nn.Conv2d(3, 8, 1) for _ in range(3))
            self.inner, self.last = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            mixed, total = torch.ops.fairdeploy_tests.mix_all([self.a(x), self.b(x)], None, "sum")
            return self.last(self.inner(mixed) * total[:, None])

    shrunk = shrink_exactly(Custom(), IMAGES)
    assert shrunk.group_sizes() == {"inner": 6}
    (freeze,) = [freeze for freeze in shrunk.graph.freezes if freeze.is_unknown_op]
    assert (freeze.op, freeze.num_units) == ("mix_all", 16)
    assert "test_more_operators.py:" in freeze.source_line


def test_block_without_gradients_inside_a_network_does_not_stop_the_walk() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = (
                nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.first(x).relu()
            return self.last(self.inner(y))

    assert "inner" in shrink_exactly(Frozen(), IMAGES).group_sizes()
