"""Running an experiment's arms and collecting their scores."""
