"""Neural cellular automata: the spec, the integer lattice, the NumPy definition, and the numba and Triton kernels."""
