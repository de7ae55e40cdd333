"""A run's record in the lake, as seen by the ranks of one attempt: rank 0 writes, everyone knows what it decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from datalake import Checkpoint, Lake, Run
from trainer.checkpoint import Snapshot, upload
from trainer.errors import TrainerError
from trainer.ranks import Ranks
from trainer.result import TrainResult
from trainer.tensor_files import FileLimit

KIND = "train"


class RunConfig(Protocol):
    """What a record needs of a config: its fields as JSON, and which checkpoints are kept."""

    @property
    def keep_last(self) -> int | None: ...

    @property
    def keep_every(self) -> int | None: ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]: ...


class RunInputs(Protocol):
    """What a record needs of a run's inputs: their names and digests."""

    def describe(self) -> dict[str, Any]: ...


@dataclass
class RunRecord:
    """One attempt at a run. ``step`` is that of the last good checkpoint (0: none).

    Of the checkpoints it keeps all, or the ``keep_last`` newest, those at multiples of ``keep_every`` steps and those
    at the steps ``keep``. ``limit`` bounds their files.
    """

    run: Run
    ranks: Ranks
    newest: Checkpoint | None
    skipped: list[dict[str, Any]]
    keep_last: int | None
    keep_every: int | None
    keep: Collection[int] = ()
    limit: FileLimit = field(default_factory=FileLimit)

    @classmethod
    def open(
        cls,
        lake: Lake,
        name: str,
        config: RunConfig,
        inputs: RunInputs,
        ranks: Ranks,
        lease: str | None = None,
        kind: str = KIND,
        keep: Collection[int] = (),
    ) -> RunRecord:
        """Begin the run, take it over, or join the owner of ``lease``; RunConflictError if the name is another's."""

        def decide() -> tuple[Run, Checkpoint | None, list[dict[str, Any]]]:
            run = lake.runs.start(name, kind, config.model_dump(mode="json"), inputs.describe(), lease=lease)
            newest, skipped = run.latest_valid_checkpoint()
            return run, newest, [{"step": item.step, "problem": item.problem} for item in skipped]

        run, newest, skipped = ranks.from_zero(decide)
        return cls(run, ranks, newest, skipped, config.keep_last, config.keep_every, keep)

    @property
    def step(self) -> int:
        return self.newest.step if self.newest else 0

    @property
    def result(self) -> TrainResult | None:
        """The recorded result, if the run is finished."""
        return TrainResult.from_record(self.run.state["result"]) if self.run.status == "finished" else None

    def load(self) -> Mapping[str, bytes] | None:
        """The files of the newest valid checkpoint, verified when they are read; None at the run's beginning."""
        return self.run.open_checkpoint(self.newest) if self.newest else None

    def save(self, step: int, taken: Snapshot, ranks: Ranks) -> None:
        """Every rank uploads its part; rank 0 names them all together once all read back right, and prunes.

        ``ranks`` is who talks meanwhile: in a thread, a group of its own.
        """
        prefix = ranks.from_zero(lambda: self.run.checkpoint_prefix(step))
        uploaded = ranks.each(lambda: upload(taken, self.limit, partial(self.run.upload_checkpoint, prefix)))
        digests = {name: digest for part in uploaded for name, digest in part.items()}

        def name_and_prune() -> Checkpoint:
            checkpoint = self.run.name_checkpoint(step, prefix, digests)
            self._prune()
            return checkpoint

        self.newest = ranks.from_zero(name_and_prune)

    def _prune(self) -> None:
        if self.keep_last is None:
            return
        every, older = self.keep_every, self.run.checkpoints[: -self.keep_last]
        self.run.drop_checkpoints(
            [item for item in older if item.step not in self.keep and (every is None or item.step % every)]
        )

    def finish(self, result: TrainResult) -> None:
        """Record the result; from now on the run returns it."""
        self.ranks.from_zero(lambda: self.run.finish(result.to_record()))

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Mark the run failed when training itself refuses to go on; a killed process leaves it ``running``."""
        try:
            yield
        except TrainerError as error:
            if self.ranks.rank == 0:
                self.run.fail(f"{type(error).__name__}: {error}")
            raise
