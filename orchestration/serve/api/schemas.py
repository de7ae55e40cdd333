"""The API's documents: what each answer holds, as the OpenAPI schema shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Digest = str
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class Document(BaseModel):
    """Base of every answer; built from the lake's own records."""

    model_config = ConfigDict(from_attributes=True)


class ParameterVersionOut(Document):
    """One version of a parameter set."""

    name: str
    version: int
    digest: Digest
    spec: dict[str, Any]
    created: str
    author: str
    message: str
    retired: bool = False


class ParameterPage(Document):
    """A page of parameter versions."""

    items: list[ParameterVersionOut]
    next: str | None = None


class PutSpec(BaseModel):
    """A spec to be the next version. It is validated completely, and its band's acceptance measured, before storing."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any] = Field(description="The spec's fields, as in the TOML file of `morphogen params put`.")
    message: str = Field(default="", max_length=2000, description="Why, for the history.")
    force: bool = Field(
        default=False, strict=True, description="Make a new version even if the spec is the latest one's."
    )

    @field_validator("message")
    @classmethod
    def _plain(cls, value: str) -> str:
        if any(character != "\n" and not character.isprintable() for character in value):
            raise ValueError("control characters are not allowed")
        return value


class AliasOut(Document):
    """Where one alias points."""

    name: str
    alias: str
    version: int


class AliasesOut(Document):
    """All aliases of a name."""

    name: str
    aliases: dict[str, int]


class PutAlias(BaseModel):
    """The version that an alias shall point at."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=999_999_999, strict=True)


class FieldChangeOut(Document):
    """One field in which two specs differ; ``added`` and ``removed`` say on which side it does not exist."""

    path: str
    old: Any = None
    new: Any = None
    added: bool
    removed: bool


class DiffOut(Document):
    """Two versions of a parameter set, field by field."""

    old: str
    new: str
    changes: list[FieldChangeOut]


class ChangeOut(Document):
    """One thing that an entry of a name's log did: made a version, pointed an alias at one, retired or restored one."""

    name: str
    what: str
    version: int
    alias: str | None
    entry: int
    time: str
    author: str
    message: str


class ChangesOut(Document):
    """What happened after an entry; ``entry`` is the last one told of, to ask again with."""

    entry: int
    items: list[ChangeOut]


class DatasetVersionOut(Document):
    """One version of a dataset; ``digest`` is its manifest's. ``computed``: it has no shards, its rows are computed
    where they are read. ``same_rows_as``: an earlier version with the same rows."""

    name: str
    version: int
    digest: Digest
    kind: str
    params: str | None
    sequences: int
    tokens: int
    computed: bool = False
    same_rows_as: int | None = None
    created: str
    author: str
    message: str
    retired: bool = False


class DatasetPage(Document):
    """A page of dataset versions."""

    items: list[DatasetVersionOut]
    next: str | None = None


class ShardOut(Document):
    """One shard; ``href`` answers with its bytes, or a redirect to them."""

    index: int
    key: str
    first: int
    rows: int
    bytes: int
    sha256: Digest
    href: str


class ShardPage(Document):
    """A page of shards."""

    items: list[ShardOut]
    next: str | None = None


class ModelVersionOut(Document):
    """One version of a model; ``files`` maps names to SHA-256 and bytes."""

    name: str
    version: int
    digest: Digest
    files: dict[str, dict[str, Any]]
    run: str
    datasets: list[str]
    spec_digests: list[str]
    params: list[str]
    metrics: dict[str, Any]
    parents: list[str]
    created: str
    author: str
    message: str
    retired: bool = False


class ModelPage(Document):
    """A page of model versions."""

    items: list[ModelVersionOut]
    next: str | None = None


class LineageOut(BaseModel):
    """What a model was made from, recursively."""

    model: dict[str, Any]
    run: dict[str, Any]
    datasets: list[dict[str, Any]]
    spec_digests: list[str]
    params: list[dict[str, Any]]
    parents: list[LineageOut]


class RunOut(Document):
    """A run's state, without its lease."""

    name: str
    kind: str
    status: str
    state: str = Field(
        description='The status, "lost" where the owner of a running run gives no sign of life, or "retired".'
    )
    progress: dict[str, Any] = Field(description="How far it is: done, of, unit, note; empty if nobody has said.")
    seen: str | None = Field(description="When its owner last gave a sign of life.")
    owner: str | None = Field(description="Host and process that last worked on it.")
    parent: str | None = Field(default=None, description="The run that this one is a stage of.")
    settings: dict[str, Any] = Field(default={}, description="What may differ between attempts, such as the workers.")
    resources: dict[str, Any] = Field(default={}, description="What the newest attempt runs on.")
    config: dict[str, Any]
    config_digest: Digest
    inputs: dict[str, Any]
    attempts: int
    checkpoints: list[dict[str, Any]] = Field(description="The newest 64, oldest first, dropped ones too.")
    checkpoint_count: int = Field(description="How many checkpoints have their files.")
    repairs: list[dict[str, Any]] = Field(default=[], description="Shards healed for the run: the newest 64.")
    repair_count: int = 0
    faults: list[dict[str, Any]] = Field(default=[], description="What else went wrong and was survived.")
    result: dict[str, Any] | None
    error: str | None
    retired: dict[str, Any] | None = Field(default=None, description="Who retired it, when and why.")


class RunSummary(Document):
    """A run in a list."""

    name: str
    kind: str
    status: str
    state: str
    progress: dict[str, Any]
    seen: str | None
    parent: str | None
    attempts: int


class RunPage(Document):
    """A page of runs."""

    items: list[RunSummary]
    next: str | None = None


class MetricsOut(Document):
    """A run's curve up to its newest checkpoint, oldest record first."""

    run: str
    records: list[dict[str, Any]]
    sampled: bool = Field(default=False, description="Whether records of some checkpoints were left out.")


class Health(Document):
    """The process answers."""

    status: str
    version: str


class Readiness(Document):
    """The lake answers."""

    status: str
    lake: str
    tokens: bool = Field(description="Whether tokens exist; without one the server is open and on loopback only.")


class TokenOut(Document):
    """A token without its secret."""

    id: str
    name: str
    role: str
    created: str
    author: str
    expires: str | None
    revoked: str | None


class TokenPage(Document):
    """A page of tokens, oldest first."""

    items: list[TokenOut]
    next: str | None = None


class Problem(BaseModel):
    """RFC 9457 problem details. ``expected`` and ``found`` are both heads of a conflict."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    expected: int | None = None
    found: int | None = None
