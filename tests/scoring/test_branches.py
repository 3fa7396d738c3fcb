"""U and R of residual blocks, against the user's own code with a gate on each block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairdeploy.graph.unit_graph import UnitGraph
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.records import ImageSet
from fairdeploy.scoring.branches import branch_scores
from fairdeploy.scoring.unit_scores import score_units
from tests.residual_networks import BasicBlock, ResidualNetwork, images, network

COUNT = 37
"""More than a batch, and no multiple of one."""


def image_set(*, labelled: bool = True) -> ImageSet:
    labels = torch.arange(COUNT) % 5 if labelled else None
    return ImageSet(images(COUNT, seed=2), labels, "given" if labelled else "predicted")


def graph_of(module: torch.nn.Module) -> UnitGraph:
    return build_unit_graph(module, (images(2),), blocks=True)


@pytest.fixture(scope="module")
def by_hand() -> tuple[list[float], list[float]]:
    """Shares of the spread, and signed estimates, of each block of the option A network."""
    module = network("option A")
    assert isinstance(module, ResidualNetwork)
    gates: list[Tensor] = []
    shares: list[float] = []

    def run(block: BasicBlock, x: Tensor) -> Tensor:
        y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        gates.append(torch.ones((), requires_grad=True))
        total = gates[-1] * y + block.shortcut(x)
        spreads = [value.double().var(0, correction=0).sum() for value in (y, total)]
        shares.append(float((spreads[0] / spreads[1]).sqrt().detach()))
        return total.relu()

    data = image_set()
    assert data.labels is not None
    x = module.bn1(module.conv1(data.images)).relu()
    for block in (*module.layer1, *module.layer2):
        x = run(block, x)
    loss = F.cross_entropy(module.head(x.mean((2, 3))), data.labels)
    products = torch.autograd.grad(loss, gates)
    return shares, [abs(float(product)) for product in products]


def test_scores_are_those_of_gates_in_the_users_own_code(
    by_hand: tuple[list[float], list[float]],
) -> None:
    u, r = branch_scores(graph_of(network("option A")), image_set())
    shares, products = by_hand
    np.testing.assert_allclose(u, np.array(shares) / np.mean(shares), rtol=1e-4)
    np.testing.assert_allclose(r, products, rtol=1e-3, atol=1e-7)


def test_block_that_adds_the_same_to_every_image_is_the_first_to_go() -> None:
    module = network("option A")
    with torch.no_grad():
        module.layer1[1].bn2.weight.zero_()  # type: ignore[index]
    u, r = branch_scores(graph_of(module), image_set())
    assert u.argmin() == 1
    assert u[1] == pytest.approx(0, abs=1e-6)
    assert r[1] > 0  # the constant counts for the loss


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
    assert (deep.r[count:] > 0).all()


def test_predictions_are_the_classes_where_images_have_no_labels() -> None:
    module = network("convnext")
    unlabelled = branch_scores(graph_of(module), image_set(labelled=False))
    with torch.no_grad():
        predicted = module(images(COUNT, seed=2)).argmax(1)
    labelled = branch_scores(
        graph_of(module), ImageSet(images(COUNT, seed=2), predicted, "predicted")
    )
    np.testing.assert_allclose(unlabelled, labelled, rtol=1e-5)


def test_network_is_left_as_it_was() -> None:
    module = network("option A")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    branch_scores(graph_of(module), image_set())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
