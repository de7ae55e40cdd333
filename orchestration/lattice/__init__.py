"""3-D lattices: training them as runs, and showing what they grow."""
