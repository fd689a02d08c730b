"""Benchmarks: each prints a figure beside its peer or its limit, measured in the same run."""
