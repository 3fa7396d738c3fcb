from __future__ import annotations

import pytest
import torch
from torch import nn

from fairdeploy.errors import DataError
from fairdeploy.recovery.batchnorm import reestimate_batchnorm
from tests.recovery.shrunk_networks import noise, shrink, small_residual


def test_statistics_are_those_of_each_layers_input_with_earlier_norms_already_renewed() -> None:
    module = small_residual()
    shrunk = shrink(module, 0.0).shrunk
    reestimate_batchnorm(shrunk, noise(50))
    state = shrunk.state_dict()

    # The slow way: training mode with momentum 1 normalises each layer with its own batch.
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        module(noise(50))
    count = 50 * 8 * 8
    for name in ("stem_norm", "norm1", "norm2"):
        expected = module.get_submodule(name)
        assert isinstance(expected, nn.BatchNorm2d)
        assert expected.running_mean is not None
        assert expected.running_var is not None
        torch.testing.assert_close(
            state[f"{name}.running_mean"], expected.running_mean, rtol=1e-3, atol=1e-4
        )
        biased = expected.running_var * (count - 1) / count
        torch.testing.assert_close(state[f"{name}.running_var"], biased, rtol=1e-3, atol=1e-4)


def test_weights_stay_and_the_summary_says_what_was_done() -> None:
    pair = shrink(small_residual(), 0.3)
    before = {name: p.detach().clone() for name, p in pair.shrunk.named_parameters()}
    summary = reestimate_batchnorm(pair.shrunk, noise(10))
    assert all(torch.equal(p, before[name]) for name, p in pair.shrunk.named_parameters())
    assert (summary.method, summary.num_images, summary.layers) == ("batchnorm", 10, ())


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="needs calibration images, got 0"):
        reestimate_batchnorm(shrink(small_residual(), 0.3).shrunk, noise(0))
