"""Every way in which training refuses to go on, by name; each message is one line that says what to do."""

from __future__ import annotations


class TrainerError(Exception):
    """Base of all errors raised by ``trainer``."""


class ConfigError(TrainerError):
    """A training configuration that cannot be run; names field, value found, what is allowed."""


class PlanMismatchError(TrainerError):
    """A batch arrived whose step or rows are not what the plan says."""


class TransferError(TrainerError):
    """Weights of the source model do not fit the target."""


class DivergedError(TrainerError):
    """Loss, gradient or weights became NaN or infinite; the last good checkpoint is kept."""


class CheckpointError(TrainerError):
    """A checkpoint does not fit the model it should be loaded into, or cannot be written."""


class RankError(TrainerError):
    """Another rank failed in a part that all do together; carries its message."""


class RankZeroError(RankError):
    """Rank 0 failed in a part that it does for all ranks; carries its message."""
