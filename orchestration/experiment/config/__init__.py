"""What an experiment file says, and whether its arms differ in their factors alone."""
