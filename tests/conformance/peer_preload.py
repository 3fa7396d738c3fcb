"""Imports all that a peer needs, in the server that every model's process is a fork of."""

from __future__ import annotations

from fairdeploy.inputs.torchvision_compat import ensure_torchvision

ensure_torchvision()

# after it, since torchvision may not import without
import Network_Pruner  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch_pruning  # noqa: E402, F401

import tests.conformance.peer_worker  # noqa: E402, F401
