"""U and R of residual blocks, against the user's own code without each block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring import branches
from fairdeploy.scoring.branches import branch_scores
from fairdeploy.scoring.unit_scores import score_units
from tests.residual_networks import ResidualNetwork, images, network

COUNT = 37
"""More than a batch, and no multiple of one."""


def image_set(*, labelled: bool = True) -> ImageSet:
    labels = torch.arange(COUNT) % 5 if labelled else None
    return ImageSet(images(COUNT, seed=2), labels, "given" if labelled else "predicted")


def graph_of(module: torch.nn.Module) -> UnitGraph:
    return build_unit_graph(module, (images(2),), blocks=True)


MUST_STAY = (0, 3)
"""Blocks of the option A network that are the first of their stream."""


def answer_without(network: ResidualNetwork, left_out: set[int], x: Tensor) -> Tensor:
    """What the option A network answers if some of its blocks add nothing."""
    x = network.bn1(network.conv1(x)).relu()
    for number, block in enumerate((*network.layer1, *network.layer2)):
        y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        x = (block.shortcut(x) + (0 if number in left_out else y)).relu()
    answer: Tensor = network.head(x.mean((2, 3))).double()
    return answer


def divergence(whole: Tensor, answer: Tensor) -> float:
    """Kullback-Leibler, of the second from the first, mean over images."""
    logs = [logits.log_softmax(1) for logits in (whole, answer)]
    return float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean())


def test_scores_are_how_far_the_users_own_code_moves_without_the_blocks() -> None:
    module = network("option A")
    assert isinstance(module, ResidualNetwork)
    data = image_set()
    u, r = branch_scores(graph_of(module), data)

    def moved(left_out: set[int]) -> float:
        whole, rest = (answer_without(module, gone, data.images) for gone in (set(), left_out))
        return divergence(whole, rest)

    with torch.no_grad():
        order = [int(number) for number in np.argsort(r) if number not in MUST_STAY]
        assert order[0] == min(order, key=lambda number: moved({number}))
        reached = 0.0
        for count, number in enumerate(order, start=1):
            reached = max(reached, moved(set(order[:count])))
            assert r[number] == pytest.approx(reached, rel=1e-3)
        for number in MUST_STAY:
            assert r[number] == pytest.approx(reached + moved({number}), rel=1e-3)
    np.testing.assert_allclose(u, r / r.mean())


def test_each_step_leaves_out_what_adds_least() -> None:
    table = {
        frozenset(): 0.0, frozenset({0}): 1.0, frozenset({1}): 1.1, frozenset({2}): 3.0,
        frozenset({0, 1}): 5.0, frozenset({0, 2}): 4.5, frozenset({0, 1, 2}): 9.0,
    }  # fmt: skip

    class Trial:
        gone: frozenset[int] = frozenset()

        def divergence(self, number: int) -> float:
            return table[self.gone | {number}]

        def leave_out(self, number: int) -> None:
            self.gone |= {number}

    alone = np.array([1.0, 1.1, 3.0])
    steps = list(branches._elimination([0, 1, 2], alone, Trial()))  # type: ignore[arg-type]
    assert steps == [(0, 1.0), (2, 4.5), (1, 9.0)]


def test_block_that_adds_nothing_is_the_first_to_go() -> None:
    module = network("option A")
    with torch.no_grad():
        module.layer1[1].bn2.weight.zero_()  # type: ignore[index]
        module.layer1[1].bn2.bias.zero_()  # type: ignore[index]
    u, r = branch_scores(graph_of(module), image_set())
    assert u.argmin() == 1
    assert (u[1], r[1]) == pytest.approx((0, 0), abs=1e-6)
    assert u.mean() == pytest.approx(1)


def test_images_are_taken_from_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "MAX_IMAGES", 3)
    data, graph = image_set(), graph_of(network("option A"))
    assert data.labels is not None
    few = branch_scores(graph, data)
    chosen = [0, 18, 36]
    same = ImageSet(data.images[chosen], data.labels[chosen], "given")
    np.testing.assert_allclose(few, branch_scores(graph, same), rtol=1e-6)


def test_scores_of_other_units_are_not_changed_by_the_option() -> None:
    module = network("transformer")
    data = image_set()
    plain = score_units(build_unit_graph(module, (images(2),)), data, seed=0)
    deep = score_units(graph_of(module), data, seed=0)
    count = len(plain.u)
    np.testing.assert_array_equal(deep.u[:count], plain.u)
    np.testing.assert_array_equal(deep.r[:count], plain.r)
    assert deep.num_unmeasured == plain.num_unmeasured
    assert deep.u[count:].mean() == pytest.approx(1.0)
    assert (deep.r[count:] >= 0).all()
    assert (deep.u[count:] > 0).all()


def test_labels_are_not_needed() -> None:
    graph = graph_of(network("convnext"))
    unlabelled = branch_scores(graph, image_set(labelled=False))
    np.testing.assert_array_equal(unlabelled, branch_scores(graph, image_set()))


def test_network_is_left_as_it_was() -> None:
    module = network("option A")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    branch_scores(graph_of(module), image_set())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
