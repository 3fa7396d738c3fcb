"""The unit graph: capture with ``torch.export``, label every index, collect units and groups."""
