from __future__ import annotations

import numpy as np
import torch

from fairdeploy.surgery.removal import full_size, remove_units
from tests.recovery.shrunk_networks import noise, shrink, small_residual


def test_a_changed_shrunk_network_computes_the_same_in_the_originals_tensors() -> None:
    pair = shrink(small_residual(), 0.4)
    with torch.no_grad():
        for parameter in pair.shrunk.parameters():
            parameter.add_(0.1)
        before = {n: t.clone() for n, t in pair.graph.module.state_dict().items()}
        grown = full_size(pair.graph, pair.shrunk, pair.removed)
        torch.testing.assert_close(grown.module(noise(5)), pair.shrunk(noise(5)))
    for name, tensor in pair.graph.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert grown.module.state_dict()[name].shape == tensor.shape


def test_removing_the_same_units_again_gives_the_shrunk_network_back() -> None:
    pair = shrink(small_residual(), 0.4)
    with torch.no_grad():
        for parameter in pair.shrunk.parameters():
            parameter.mul_(1.5)
    grown = full_size(pair.graph, pair.shrunk, pair.removed)
    again = remove_units(grown, pair.removed).module
    for name, tensor in pair.shrunk.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_nothing_removed_is_a_copy() -> None:
    pair = shrink(small_residual(), 0.0)
    grown = full_size(pair.graph, pair.shrunk, np.zeros_like(pair.removed))
    for name, tensor in pair.graph.module.state_dict().items():
        assert torch.equal(grown.module.state_dict()[name], tensor), name
