"""Meshes, strategies, placements and manual computation on eight devices made of the CPU."""
