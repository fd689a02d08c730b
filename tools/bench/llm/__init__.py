"""Llama models of random weights: zml beside llama.cpp, transformers and the machine's limits, in one run."""
