"""A trained 3-D lattice in whole numbers, as a source of sequences."""
