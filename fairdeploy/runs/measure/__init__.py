"""Races between files that exist already, and bundles for other machines."""
