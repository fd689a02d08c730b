"""Writes the API reference in docs/api/ from the sources."""
