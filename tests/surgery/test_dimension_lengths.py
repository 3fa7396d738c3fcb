"""One vector of lengths tells every shape of the shrunk network."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairdeploy.graph.call_facts import fetch_tensor
from fairdeploy.graph.units import build_unit_graph
from fairdeploy.surgery.dimension_lengths import DimensionLengths
from fairdeploy.surgery.removal import remove_units
from tests.random_networks import RandomNetwork, networks
from tests.surgery.exactness import random_removal


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=networks(max_inputs=2), seed=st.integers(0, 1000), share=st.floats(0.0, 0.8))
def test_lengths_are_the_shapes_after_removal(
    network: RandomNetwork, seed: int, share: float
) -> None:
    graph = build_unit_graph(network, network.examples())
    removed = random_removal(graph, seed, share)
    dims = DimensionLengths(graph)
    lengths, known = dims.lengths(removed), dims.network_dims()
    shrunk = remove_units(graph, removed).module
    assert len(set(known.tensors)) > 0
    for name, numbers in known.tensors.items():
        tensor = fetch_tensor(shrunk, name)
        assert tensor is not None
        assert tuple(lengths[list(numbers)]) == tuple(tensor.shape)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=networks())
def test_node_deals_with_its_result_and_what_it_reads(network: RandomNetwork) -> None:
    graph = build_unit_graph(network, network.examples())
    dims = DimensionLengths(graph)
    nothing = dims.lengths(np.zeros(graph.num_units, dtype=np.bool_))
    for node in graph.module.graph.nodes:
        if node.op == "call_function" and node.name in graph.value_units:
            found = nothing[list(dims.network_dims().nodes[node.name])]
            assert set(graph.shape_of(node.name)) <= set(found.tolist())
