"""Whole architectures through graph, search, surgery, proof and export."""
