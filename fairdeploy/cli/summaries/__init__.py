"""What each command prints at its end."""
