"""Races between files, and what their timings say."""
