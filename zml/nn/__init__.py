"""Layers as plain functions and small dataclasses of arrays."""
