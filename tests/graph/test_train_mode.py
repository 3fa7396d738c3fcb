"""``train()`` and ``eval()`` of a captured graph switch what they switch in any module."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.graph.capture.capture import capture, quiet_export
from fairdeploy.graph.capture.train_mode import SwitchableGraph
from fairdeploy.inputs.exported_programs import load_exported_program
from fairdeploy.surgery.own_class.module_rewrite import rebuild_own_class
from tests.surgery.own_networks import EXAMPLE, Trainable, halved

BATCH = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def both_forms() -> tuple[Trainable, SwitchableGraph]:
    """A halved network as its own class and as a graph module, in eval mode."""
    torch.manual_seed(0)
    network = Trainable()
    graph, _, shrunk = halved(network)
    own, reason = rebuild_own_class(network, graph, shrunk)
    assert isinstance(own, Trainable), reason
    assert isinstance(shrunk, SwitchableGraph)
    return own, shrunk


def test_dropout_is_active_in_train_mode_only() -> None:
    _, shrunk = both_forms()
    assert torch.equal(shrunk(BATCH), shrunk(BATCH))
    shrunk.train()
    assert not torch.equal(shrunk(BATCH), shrunk(BATCH))
    shrunk.eval()
    assert torch.equal(shrunk(BATCH), shrunk(BATCH))


def test_both_forms_give_the_same_in_train_mode_from_the_same_random_state() -> None:
    own, shrunk = both_forms()
    results = []
    for form in (own, shrunk):
        form.train()
        torch.manual_seed(7)
        results.append(form(BATCH))
    torch.testing.assert_close(results[0], results[1])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        ours, theirs = getattr(own.norm, name), shrunk.get_buffer(f"norm.{name}")
        torch.testing.assert_close(ours, theirs)


def test_norm_statistics_move_in_train_mode_only() -> None:
    _, shrunk = both_forms()
    before = shrunk.get_buffer("norm.running_mean").clone()
    shrunk(BATCH)
    assert torch.equal(shrunk.get_buffer("norm.running_mean"), before)
    assert shrunk.get_buffer("norm.num_batches_tracked") == 0
    shrunk.train()
    shrunk(BATCH)
    batch_mean = F.conv2d(
        BATCH, shrunk.get_parameter("conv.weight"), shrunk.get_parameter("conv.bias"), padding=1
    ).mean((0, 2, 3))
    expected = 0.9 * before + 0.1 * batch_mean
    torch.testing.assert_close(shrunk.get_buffer("norm.running_mean"), expected)
    assert shrunk.get_buffer("norm.num_batches_tracked") == 1


def test_both_forms_have_the_same_gradients_in_eval_mode() -> None:
    own, shrunk = both_forms()
    for form in (own, shrunk):
        F.cross_entropy(form(BATCH), LABELS).backward()
    for name, parameter in own.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(shrunk.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize("number", [0, 1])
def test_training_lowers_the_loss_of_both_forms(number: int) -> None:
    form = both_forms()[number]
    # brightness tells the class
    images = BATCH + LABELS[:, None, None, None]
    first = F.cross_entropy(form(images), LABELS).item()
    optimizer = torch.optim.Adam(form.parameters(), lr=0.02)
    form.train()
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(form(images), LABELS).backward()
        optimizer.step()
    form.eval()
    assert F.cross_entropy(form(images), LABELS).item() < 0.8 * first


def test_eval_restores_the_code_exactly() -> None:
    _, shrunk = both_forms()
    before = shrunk.code
    shrunk.train()
    assert shrunk.code != before
    shrunk.train()
    shrunk.eval()
    assert shrunk.code == before


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("way", ["copy", "pickle"])
def test_copies_and_pickles_keep_mode_outputs_and_state(way: str, mode: bool) -> None:
    _, shrunk = both_forms()
    shrunk.train(mode)
    if way == "copy":
        again = copy.deepcopy(shrunk)
    else:
        file = io.BytesIO()
        torch.save(shrunk, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert isinstance(again, SwitchableGraph)
    assert again.training is mode
    assert again.state_dict().keys() == shrunk.state_dict().keys()
    again.eval()
    assert torch.equal(again(BATCH), shrunk.eval()(BATCH))
    again.train()
    assert not torch.equal(again(BATCH), again(BATCH))
    assert shrunk.get_buffer("norm.num_batches_tracked") == 0


def test_exported_program_can_be_trained_after_loading(tmp_path) -> None:
    _, shrunk = both_forms()
    with quiet_export():
        program = torch.export.export(shrunk, (BATCH,))
        torch.export.save(program, tmp_path / "model.pt2")
    module = load_exported_program(tmp_path / "model.pt2", trust_pickle=False).module
    assert torch.equal(module(BATCH), shrunk(BATCH))
    module.train()
    assert not torch.equal(module(BATCH), module(BATCH))
    assert module.get_buffer("norm.num_batches_tracked") == 2
    module.eval()
    assert torch.equal(module(BATCH), module(BATCH))


def test_norm_that_never_uses_stored_statistics_is_not_switched() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = F.batch_norm(F.conv2d(x, self.weight), None, None, training=True)
            return self.head(self.norm(y).mean((2, 3)))

    torch.manual_seed(0)
    module = capture(Standardised().eval(), EXAMPLE).module
    before = module.code
    module.train()
    assert module.code.count("True, 0.1, 1e-05") == 2
    module.eval()
    assert module.code == before


def test_constants_of_the_graph_are_not_in_its_state_dict() -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)
            self.plain = torch.ones(8)
            self.register_buffer("hidden", torch.ones(8), persistent=False)
            self.register_buffer("saved", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.plain + self.hidden + self.saved

    network = Constants().eval()
    module = capture(network, EXAMPLE).module
    assert module.state_dict().keys() == network.state_dict().keys()
    assert copy.deepcopy(module).state_dict().keys() == network.state_dict().keys()
