"""Training while the data is being generated."""
