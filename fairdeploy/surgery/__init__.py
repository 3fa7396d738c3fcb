"""Take units out of a network, rewrite what depended on their number, and prove it exact."""
