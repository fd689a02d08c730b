"""Native kernels for the CPU: C++ behind XLA's FFI, where XLA alone is far from the machine's limit."""
