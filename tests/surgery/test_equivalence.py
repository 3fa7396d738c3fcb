"""The first law: zeroed original equals shrunk network, and the proof notices when it does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fairdeploy.errors import ParityError
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records.method import AttentionOption
from fairdeploy.surgery.equivalence import prove, require_proof
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import (
    BLOCKS,
    IMAGE,
    MEETINGS,
    RandomNetwork,
    TwoInputNetwork,
    networks,
    randomise,
)
from tests.surgery.exactness import random_removal

EXAMPLE = (torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0)),)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    network=networks(max_inputs=2),
    seed=st.integers(0, 1000),
    share=st.floats(0.1, 0.8),
    attention=st.sampled_from(["heads", "channels", "both", "none"]),
)
def test_proof_holds_for_random_removals(
    network: RandomNetwork, seed: int, share: float, attention: AttentionOption
) -> None:
    graph = build_unit_graph(network, network.examples(), attention=attention)
    removed = random_removal(graph, seed, share)
    shrunk = remove_units(graph, removed)
    result = prove(graph, shrunk.module, removed, seed=seed)
    assert result.passed, result
    before = sum(parameter.numel() for parameter in network.parameters())
    after = sum(parameter.numel() for parameter in shrunk.module.parameters())
    assert after < before or not removed.any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_can_shrink_exactly(kind: str) -> None:
    network = randomise(RandomNetwork((kind, kind), (4, 4), flatten=True), seed=1)
    graph = build_unit_graph(network, EXAMPLE)
    removed = random_removal(graph, seed=2, share=0.5)
    shrunk = remove_units(graph, removed)
    assert prove(graph, shrunk.module, removed).passed
    inside = [group for group in graph.groups if any("blocks" in m.tensor for m in group.members)]
    assert inside, "nothing in the blocks could go"
    assert graph.has_dynamic_batch


@pytest.mark.parametrize("meeting", MEETINGS)
def test_network_of_two_inputs_shrinks_exactly(meeting: str) -> None:
    network = TwoInputNetwork(("residual",), (4,), False, meeting)
    randomise(network, seed=1)
    graph = build_unit_graph(network, network.examples())
    removed = random_removal(graph, seed=2, share=0.5)
    shrunk = remove_units(graph, removed)
    assert prove(graph, shrunk.module, removed).passed
    mixed = next(group for group in graph.groups if group.name == "stem.0")
    tied = {member.tensor for member in mixed.members}
    assert ("other.0.weight" in tied) == (meeting == "added")
    assert ("other.weight" in tied) == (meeting == "modulated")


@pytest.mark.parametrize("kind", ["plain", "residual", "dense", "depthwise", "attention", "gated"])
def test_own_class_agrees_and_keeps_its_type(kind: str) -> None:
    network = randomise(RandomNetwork((kind,), (4,), flatten=False), seed=1)
    graph = build_unit_graph(network, EXAMPLE)
    shrunk = remove_units(graph, random_removal(graph, seed=2, share=0.5))
    own, reason = rebuild_own_class(network, graph, shrunk.module)
    assert isinstance(own, RandomNetwork), reason
    with torch.no_grad():
        torch.testing.assert_close(own(EXAMPLE[0]), shrunk.module(EXAMPLE[0]))


def test_own_class_is_refused_with_a_reason_when_its_forward_bakes_a_size_in() -> None:
    class Baked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x):
            return self.second(self.first(x).reshape(-1, 6, 8, 8)).mean((2, 3))

    network = Baked().eval()
    graph = build_unit_graph(network, EXAMPLE)
    removed = random_removal(graph, seed=0, share=0.5)
    shrunk = remove_units(graph, removed)
    assert prove(graph, shrunk.module, removed).passed
    own, reason = rebuild_own_class(network, graph, shrunk.module)
    assert own is None
    assert "fails with the new sizes" in reason


def test_proof_fails_when_a_weight_of_the_shrunk_network_is_wrong() -> None:
    network = randomise(RandomNetwork(("residual",), (4,), flatten=False), seed=3)
    graph = build_unit_graph(network, EXAMPLE)
    removed = random_removal(graph, seed=0, share=0.5)
    shrunk = remove_units(graph, removed)
    with torch.no_grad():
        shrunk.module.get_parameter("head.weight")[0, 0] += 0.01
    result = prove(graph, shrunk.module, removed)
    assert not result.passed
    with pytest.raises(ParityError, match="differs from the zeroed original by"):
        require_proof(result)


def test_channels_that_would_leak_through_a_maximum_are_frozen() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x):
            y = self.first(x)
            return (self.second(y) + y.amax(1, keepdim=True)).mean((2, 3))

    network = Leaky().eval()
    graph = build_unit_graph(network, EXAMPLE)
    assert graph.num_units == 0, "channels under a maximum must be frozen"
    reasons = " ".join(group.reason for group in graph.frozen_groups)
    assert "'amax' mixes this dimension" in reasons


def test_surgery_leaves_the_user_s_model_as_it_was() -> None:
    network = randomise(RandomNetwork(("dense", "attention"), (4, 4), flatten=True), seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = build_unit_graph(network, EXAMPLE)
    removed = random_removal(graph, seed=0, share=0.5)
    shrunk = remove_units(graph, removed)
    with torch.no_grad():
        for parameter in shrunk.module.parameters():
            parameter.zero_()
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not network.training


def test_network_that_magnifies_rounding_is_proved_in_float64() -> None:
    class Magnifying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 96, 3), nn.Conv2d(96, 5, 3)

        def forward(self, x):
            # made here, in float32 by default and by request
            steps = torch.linspace(0, 1, 5).to(x.device, torch.float32)
            return torch.sin(1e5 * self.second(self.first(x)).mean((2, 3))) + steps

    torch.manual_seed(0)
    graph = build_unit_graph(Magnifying().eval(), EXAMPLE)
    removed = random_removal(graph, seed=0, share=0.5)
    shrunk = remove_units(graph, removed).module
    result = prove(graph, shrunk, removed)
    assert result.passed
    assert result.precision == "float64"
    with torch.no_grad():
        shrunk.get_parameter("first.weight")[0, 0, 0, 0] += 1e-3
    assert not prove(graph, shrunk, removed).passed
