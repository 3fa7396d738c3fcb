"""Ways to a plan that need more than counting: trials, races, steps."""
