"""The 3-D lattice: network, tasks, loop, whole numbers."""
