"""Every option once: flag, key of the project file, default, check."""
