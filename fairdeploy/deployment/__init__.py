"""Deployment: exporters and runners behind protocols, parity, and latency."""
