"""Repair of a shrunk network's accuracy, without training."""
