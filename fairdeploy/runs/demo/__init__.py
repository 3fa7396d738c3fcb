"""A whole run on images and a network that are made on the spot."""
