"""Hostile files of every kind that fairdeploy opens, built by code, and what becomes of them."""
