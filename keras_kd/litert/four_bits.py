"""Which weights a file holds in 4 bits."""

# Kernels with fewer numbers save next to nothing and are often the first layer's.
LEAST_WEIGHTS = 1024
