"""How many channels images have, from the layer that reads them first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_USUAL = (3, 1, 4)


class _FoundError(Exception):
    """Ends a call at the first layer."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__()
        self.wanted, self.found = wanted, found


def input_channels(network: nn.Module, height: int, width: int) -> int | None:
    """Channels that the first layer on the way of an image takes; None where nothing tells.

    The network is called with made-up images of a few channels, and stopped at its first
    convolution or linear layer: the first that is written down may be another one.

    Args:
        network: Takes one image, [N, C, H, W].
        height: Of its images.
        width: The same.
    """
    written = [m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    for channels in dict.fromkeys((*written[:1], *_USUAL)):
        found = _wanted(network, channels, height, width)
        if found is not None:
            return found
    return written[0] if written else None


def _wanted(network: nn.Module, channels: int, height: int, width: int) -> int | None:
    """Channels that it should have been, once asked with ``channels``."""
    handles = [layer.register_forward_pre_hook(_stop) for layer in _layers(network)]
    mode = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, height, width))
    except _FoundError as layer:
        # Views may have put several pixels into a channel, or all of them into a row.
        whole, rest = divmod(layer.wanted * channels, layer.found)
        return whole if not rest and whole and layer.found % channels == 0 else None
    except Exception:  # user code, called with what may not suit it
        return None
    finally:
        network.train(mode)
        for handle in handles:
            handle.remove()
    return None


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    return (m for m in network.modules() if isinstance(m, (_ConvNd, nn.Linear)))


def _stop(layer: nn.Module, given: tuple[object, ...]) -> None:
    value = given[0] if given else None
    if not isinstance(value, Tensor):
        return
    if isinstance(layer, nn.Linear):
        raise _FoundError(layer.in_features, int(value.shape[-1]))
    assert isinstance(layer, _ConvNd)
    raise _FoundError(layer.in_channels, int(value.shape[1]))
