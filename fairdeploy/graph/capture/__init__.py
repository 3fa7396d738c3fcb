"""From a user's module to a graph that surgery can read, and back."""
