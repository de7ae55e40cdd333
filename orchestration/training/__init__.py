"""Training jobs: on Ray Train, or in this process."""
