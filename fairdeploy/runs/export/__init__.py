"""Further files of a finished result."""
