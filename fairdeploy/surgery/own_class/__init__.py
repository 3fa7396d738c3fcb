"""The user's own module classes with fewer units."""
