"""Every way the lake can refuse, as named classes under one base.

A message is one line: what was asked, what was found, what is expected, what to do. Extra facts travel as keyword
attributes with defaults, so that every error survives pickling between processes.
"""

from __future__ import annotations


class DatalakeError(Exception):
    """Base of every error raised by this package."""


class InvalidNameError(DatalakeError):
    """A name, alias, reference (``NAME@V``) or object key is not well formed."""


class LakePathError(DatalakeError):
    """The lake's address cannot be a lake: a file, an unknown scheme, a folder that cannot be written."""


class StoreUnavailableError(DatalakeError):
    """The store did not answer, or kept answering with server errors, after all retries."""


class StoreRefusedError(DatalakeError):
    """The store answered, and its answer is no: asking again would give the same answer."""


class ObjectTooLargeError(StoreRefusedError):
    """The store takes no object of this size in one request."""


class ClockSkewError(StoreRefusedError):
    """This machine's clock differs so much from the store's that no request is believed."""


class RegionError(StoreRefusedError):
    """Requests are signed for another region than the bucket's."""


class CredentialsError(DatalakeError):
    """The store refused the credentials, or none were found."""


class BucketNotFoundError(DatalakeError):
    """The bucket does not exist."""


class NotFoundError(DatalakeError):
    """An object, name, version or alias does not exist."""


class CorruptObjectError(DatalakeError):
    """An object's bytes are not what its name or its record says they are."""


class CorruptShardError(CorruptObjectError):
    """A shard's bytes differ from its manifest.

    Attributes: ``key`` (str), ``expected`` and ``found`` (SHA-256 hex, or a size in bytes as text).
    """

    def __init__(self, message: str, *, key: str = "", expected: str = "", found: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.expected = expected
        self.found = found


class MissingShardError(CorruptShardError):
    """A shard that a manifest names is not in the store."""


class UnhealableError(DatalakeError):
    """A lost or corrupt shard cannot be computed again to the bytes that its manifest names."""


class GeneratorVersionError(UnhealableError):
    """Rows are to be computed by another version of the generator than the one that fixes them."""


class ShardConflictError(DatalakeError):
    """The key of a shard about to be written holds other rows."""


class ManifestError(DatalakeError):
    """A manifest does not add up, or names shards that are not there."""


class Conflict(DatalakeError):
    """Another writer moved the head first. Attributes: ``expected`` and ``found``, entry or version numbers."""

    def __init__(self, message: str, *, expected: int = 0, found: int = 0) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class KeyReusedError(DatalakeError):
    """The id of a request for one change came again with another request."""


class RetiredError(DatalakeError):
    """A version, or a run, was retired: its record stays, what it named may be gone."""


class InUseError(DatalakeError):
    """What is to be retired is still needed by something, which the message names."""


class RunConflictError(Conflict):
    """A run of this name exists with another configuration or other inputs, or is already finished."""


class RunHeldError(Conflict):
    """A live process works on this run; another one must not begin."""


class RunFencedError(Conflict):
    """Another process took this run over; this one must stop writing to it."""


class DamagePolicyError(DatalakeError):
    """A policy for degraded stores names no such behaviour, or a budget below nothing."""


class PlanError(DatalakeError):
    """A plan's parameters are out of range."""


class ProbeError(DatalakeError):
    """The store fails the one primitive that the lake is built on."""


class ImportRefusedError(DatalakeError):
    """A Parquet file from elsewhere does not hold tokens that this lake can take."""


class ExportRefusedError(DatalakeError):
    """A dataset cannot be written in the format that was asked for."""


class CollectionError(DatalakeError):
    """Garbage is being collected where a commit is about to name objects."""


class GraceError(DatalakeError):
    """A grace period so short that jobs at work would lose what they have not named yet."""
