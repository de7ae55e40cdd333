"""One address, one object: the store and every repository in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from datalake.clock import System
from datalake.registry.datasets import DatasetRepository
from datalake.registry.models import ModelRepository
from datalake.registry.params import ParameterRegistry
from datalake.runs.repository import RunRepository
from datalake.store.conformance import check_writable
from datalake.store.interface import Store
from datalake.store.open import open_store


@dataclass(frozen=True)
class Lake:
    """A lake: parameter sets in ``params``, and ``datasets``, ``models`` and ``runs``.

    Picklable: another process gets the same lake and finds its own credentials.
    """

    store: Store
    system: System

    @classmethod
    def open(cls, uri: str, system: System | None = None) -> Lake:
        """Open the lake at a folder or ``s3://bucket/prefix``, checked at once; nothing is created.

        Raises LakePathError, BucketNotFoundError, CredentialsError or StoreUnavailableError.
        """
        return cls(open_store(uri), system or System())

    @property
    def uri(self) -> str:
        """The address it can be opened by."""
        return self.store.uri

    def check_writable(self) -> None:
        """Raise ProbeError now, before a job computes anything, if the store is known to fail the probe."""
        check_writable(self.store)

    @cached_property
    def params(self) -> ParameterRegistry:
        """Parameter sets."""
        return ParameterRegistry(self.store, self.system)

    @cached_property
    def datasets(self) -> DatasetRepository:
        """Datasets."""
        return DatasetRepository(self.store, self.system)

    @cached_property
    def models(self) -> ModelRepository:
        """Models."""
        return ModelRepository(self.store, self.system)

    @cached_property
    def runs(self) -> RunRepository:
        """Runs."""
        return RunRepository(self.store, self.system)


@dataclass(frozen=True)
class ModelFiles:
    """The files of the models of the lake at ``uri``, which is opened only if one is asked for."""

    uri: str

    def __call__(self, sha256: str) -> bytes | None:
        """See ``ModelRepository.find_file``."""
        return Lake.open(self.uri).models.find_file(sha256)
