"""Which units each value carries: labels, how they propagate, and the rules of operators."""
