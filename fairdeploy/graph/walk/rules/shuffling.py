"""Pixel and channel shuffle as single operators: channels change places in blocks."""

from __future__ import annotations

import numpy as np
from torch import fx

from fairdeploy.graph.call_facts import result_shape
from fairdeploy.graph.walk.propagation import Propagation, Value
from fairdeploy.graph.walk.rules.registry import rule


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """``[N, C r r, H, W] -> [N, C, H r, W r]`` and back: each channel has r * r places."""
    dims = walk.dims(node.args[0])
    shape = result_shape(node)
    channel = len(dims) - 3
    space = tuple(walk.fixed(length) for length in shape[channel + 1 :])
    if len(dims[channel]) > shape[channel]:
        places = dims[channel].reshape(shape[channel], -1)
        first = np.ascontiguousarray(places[:, 0])
        for column in places.T[1:]:
            walk.tie(first, np.ascontiguousarray(column))
    else:
        first = np.repeat(dims[channel], shape[channel] // len(dims[channel]))
    return (*dims[:channel], first, *space)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Propagation, node: fx.Node) -> Value:
    """Channels of several blocks are dealt out in turn: the same place of each block goes."""
    dims = list(walk.dims(node.args[0]))
    groups = node.args[1]
    assert isinstance(groups, int)
    blocks = dims[1].reshape(groups, -1)
    walk.tie_rows(blocks)
    dims[1] = np.ascontiguousarray(blocks.T).reshape(-1)
    return tuple(dims)
