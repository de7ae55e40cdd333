"""The errors of experiments: one line each, saying what was found, what is allowed, and what to do."""

from orchestration.errors import OrchestrationError


class ExperimentDesignError(OrchestrationError):
    """No experiment of this design can answer: too few seeds, an impossible power, a baseline that no arm has."""
