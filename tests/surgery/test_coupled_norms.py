"""Channels under layer norms go only if that is allowed; then all but the norms is proved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fairdeploy
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.equivalence import prove, relative_error
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.plan import Plan, read_plan
from tests.layer_normed import Transformer
from tests.surgery.exactness import Shrunk, shrink_exactly

IMAGES = torch.zeros(2, 3, 8, 8)


class ConvNext(nn.Module):
    """Channels first and last, a norm of one group, and a norm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.GroupNorm(1, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.plain = nn.LayerNorm(8, elementwise_affine=False)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = self.plain(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


NETWORKS = {"transformer": Transformer, "convnext": ConvNext}


def shrink(kind: str) -> tuple[nn.Module, Shrunk]:
    network = NETWORKS[kind]()
    return network, shrink_exactly(network, IMAGES, allow_norm_coupled=True)


@pytest.mark.parametrize("kind", NETWORKS)
def test_width_under_layer_norms_stays_unless_it_is_allowed_to_go(kind: str) -> None:
    stem = "patches" if kind == "transformer" else "stem"
    graph = build_unit_graph(NETWORKS[kind]().eval(), (IMAGES,))
    assert stem not in {group.name for group in graph.groups}
    assert not graph.coupled_norms
    _, shrunk = shrink(kind)
    assert shrunk.group_sizes()[stem] == 8
    assert shrunk.shape(f"{stem}.weight")[0] == 4


@pytest.mark.parametrize("kind", NETWORKS)
def test_difference_that_norms_make_is_measured_against_plain_zeros(kind: str) -> None:
    _, shrunk = shrink(kind)
    result = prove(shrunk.graph, shrunk.module, shrunk.removed, seed=3)
    assert result.num_coupled_norms == (3 if kind == "transformer" else 2)
    assert result.norm_coupled_difference is not None
    assert 1e-3 < result.norm_coupled_difference < 10


def test_difference_equals_one_that_is_taken_by_hand() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.first(x)))

    network = Normed()
    shrunk = shrink_exactly(network, torch.zeros(2, 5), allow_norm_coupled=True)
    kept = torch.from_numpy(~shrunk.removed)
    generator = torch.Generator().manual_seed(5)
    worst = 0.0
    with torch.no_grad():
        for size in (1, 1, 3, 3):
            x = torch.randn(size, 5, generator=generator)
            zeroed = network.last(network.norm(network.first(x) * kept) * kept)
            worst = max(worst, relative_error(shrunk.module(x), zeroed))
    measured = prove(shrunk.graph, shrunk.module, shrunk.removed, seed=5).norm_coupled_difference
    assert measured == pytest.approx(worst, rel=1e-4)


def test_proof_still_fails_when_a_weight_beside_the_norms_is_wrong() -> None:
    _, shrunk = shrink("transformer")
    with torch.no_grad():
        shrunk.module.get_parameter("wide.weight")[0, 0] += 0.05
    assert not prove(shrunk.graph, shrunk.module, shrunk.removed).passed


def test_shrunk_norm_takes_its_statistics_over_what_is_left() -> None:
    network, shrunk = shrink("convnext")
    own, reason = rebuild_own_class(network, shrunk.graph, shrunk.module)
    assert isinstance(own, ConvNext), reason
    assert own.plain.normalized_shape == (4,)
    assert own.norm.num_channels == 4
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(own(x), shrunk.module(x))


def tiny_plan(sizes: dict[str, int], removed: dict[str, tuple[int, ...]], *, allowed: bool) -> Plan:
    return Plan(
        model_name="tiny", model_sha256="0" * 64, input_shape=(3, 8, 8), tolerance=0.5,
        attention="heads", group_sizes=sizes, removed=removed, allow_norm_coupled=allowed,
    )  # fmt: skip


def test_plan_records_that_norms_may_lose_channels(tmp_path) -> None:
    network, shrunk = shrink("transformer")
    removed = {
        group.name: tuple(int(u - group.units[0]) for u in group.units if shrunk.removed[u])
        for group in shrunk.graph.groups
    }
    plan = tiny_plan(shrunk.group_sizes(), removed, allowed=True)
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert read_plan(tmp_path / "plan.json").allow_norm_coupled
    again = fairdeploy.apply(network, tmp_path / "plan.json")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(x), shrunk.module(x))


def test_plan_without_the_record_is_read_as_exact(tmp_path) -> None:
    text = tiny_plan({"a": 4}, {"a": (1,)}, allowed=False).to_json()
    assert '"allow_norm_coupled": false' in text
    older = text.replace(' "allow_norm_coupled": false,\n', "")
    assert older != text
    (tmp_path / "plan.json").write_text(older)
    assert not read_plan(tmp_path / "plan.json").allow_norm_coupled
