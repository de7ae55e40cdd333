"""The errors of this package: one line each, saying what was found, what is allowed, and what to do.

The command line prints them and exits with status 2. A bug, in contrast, keeps its traceback.
"""


class OrchestrationError(Exception):
    """Base of every error that this package raises for its user."""


class CorpusError(OrchestrationError):
    """A corpus cannot be built from what was given."""


class TokenizerError(CorpusError):
    """A tokenizer is unknown, too large for 16-bit tokens, or not the one that its digest names."""


class PictureError(OrchestrationError):
    """Frames, scores and palette of a picture do not fit together."""


class InvalidRequestError(OrchestrationError):
    """A command's argument is out of range or contradicts another."""


class GenerationFailedError(OrchestrationError):
    """A shard could not be made although its worker was replaced and tried again."""


class TrainingFailedError(OrchestrationError):
    """The training workers died more often than the job tolerates."""


class EvaluationError(OrchestrationError):
    """An evaluation cannot be made of what was given, or needs a package that is not installed."""


class ExperimentError(OrchestrationError):
    """An experiment's file says what cannot be run, or what would prove nothing."""
