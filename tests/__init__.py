"""Tests that cross modules."""
