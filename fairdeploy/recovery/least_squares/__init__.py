"""Repair in closed form: weights that fit the original layer by layer."""
