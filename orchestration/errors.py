"""The errors of this package: one line each, saying what was found, what is allowed, and what to do.

The command line prints them and exits with their ``exit_code``. A bug, in contrast, keeps its traceback.
"""


class OrchestrationError(Exception):
    """Base of every error that this package raises for its user."""

    exit_code = 2


class CorpusError(OrchestrationError):
    """A corpus cannot be built from what was given."""


class TooLittleText(CorpusError):
    """A split has fewer tokens than one row."""


class TokenizerError(CorpusError):
    """A tokenizer is unknown, too large for 16-bit tokens, or not the one that its digest names."""


class PictureError(OrchestrationError):
    """Frames, scores and palette of a picture do not fit together."""


class InvalidRequestError(OrchestrationError):
    """A command's argument is out of range or contradicts another."""


def refuse_without_ray(**settings: object) -> None:
    """InvalidRequestError for the first of ``settings`` that is given (not None): only Ray has what it is about."""
    for field, value in settings.items():
        if value is not None:
            name = field.replace("_", "-")
            raise InvalidRequestError(f"{name} = {value}: without Ray there are none; leave it or --no-ray out")


class GenerationFailedError(OrchestrationError):
    """A shard could not be made although its worker was replaced and tried again."""


class WorkerDiedError(OrchestrationError):
    """The process that worked on a task died, or could not be started, more often than is tolerated."""


class TrainingFailedError(OrchestrationError):
    """The training workers died more often than the job tolerates."""


class EvaluationError(OrchestrationError):
    """An evaluation cannot be made of what was given, or needs a package that is not installed."""


class ExperimentError(OrchestrationError):
    """An experiment's file says what cannot be run, or what would prove nothing."""


class JobStopped(OrchestrationError):
    """A job ended before its end because a signal or a person wished so; it goes on when it is started again.

    ``exit_code`` is 3 if it was asked to stop, 128 + the signal's number if it got one; ``reason`` says which.
    """

    def __init__(self, message: str, exit_code: int = 3, reason: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason


class ClusterLostError(OrchestrationError):
    """The Ray cluster that a job runs on does not answer any more."""

    exit_code = 4


class OutputError(OrchestrationError):
    """A result cannot be printed, or a file for it not be written."""


class OutputClosedError(OutputError):
    """Whoever read the output has stopped, as ``head`` does: nothing is wrong, and nobody is left to be told.

    The exit code is that of a process that SIGPIPE ends.
    """

    exit_code = 141
