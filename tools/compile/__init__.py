"""Compiles the programs of a model into a folder: on the machine that has the accelerator, or on any other."""
