"""Single native kernels by each instruction set, beside XLA's own programs and what the machine can do at most."""
