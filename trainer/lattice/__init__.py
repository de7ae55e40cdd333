"""The 3-D cellular network: gated cells on a lattice that learn to act together from local rules alone."""
