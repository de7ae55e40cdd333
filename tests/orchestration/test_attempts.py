"""The attempt index of a computed dataset: the same rows, without looking for them; and whatever becomes of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import Table

from datalake import ComputedReader, Lake, Manifest, Repairer
from datalake.clock import System
from datalake.maintenance.garbage import find_garbage, sweep
from datalake.reading.attempts import SPAN, AttemptIndex, attempts_folder, attempts_key, index_of, read_attempts
from datalake.store.open import open_store
from generator import SpecGenerator, parse_spec
from orchestration.cli import main
from orchestration.errors import JobStopped
from orchestration.generation.attempts import index_attempts
from orchestration.generation.request import GenerateRequest, commit_computed
from orchestration.runs.signals import Stop
from tests.ray_fixtures import TINY_SPEC

ROWS = SPAN + 300
SPEC = {"family": "eca", "seq_len": 64, "band": TINY_SPEC["band"] | {"low": 0.3}}


class Noting:
    """The generator, and how many rows it was asked for with their attempts and without."""

    version = SpecGenerator.version

    def __init__(self) -> None:
        self.known = self.looked_for = 0

    def table(self, spec: Mapping[str, Any], seed: int, first: int, rows: int) -> Table:
        return SpecGenerator().table(spec, seed, first, rows)

    def tokens(
        self, spec: Mapping[str, Any], seed: int, ids_N: np.ndarray, attempts_N: np.ndarray | None = None
    ) -> np.ndarray:
        self.known += 0 if attempts_N is None else len(ids_N)
        self.looked_for += len(ids_N) if attempts_N is None else 0
        return SpecGenerator().tokens(spec, seed, ids_N, attempts_N)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def computed(folder: Path, rows: int = ROWS, **changes: Any) -> tuple[Lake, Manifest]:
    lake = Lake.open(str(folder))
    spec = parse_spec(changes.pop("spec", SPEC) | changes)
    params = lake.params.put("tiny", spec.model_dump(mode="json"))
    return lake, commit_computed(lake, GenerateRequest(params, rows * spec.seq_len, seed=3))[1]


def test_rows_are_the_same_and_none_is_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake, manifest = computed(tmp_path / "lake")
    ids = np.array([0, SPAN - 1, SPAN, ROWS - 1, 7, 7])
    expected = ComputedReader(manifest, SpecGenerator()).rows(ids)
    assert index_of(lake.store, manifest) is None
    stop = Stop()
    stop.ask("SIGTERM", 143)
    with pytest.raises(JobStopped, match="the same command goes on") as stopped:
        index_attempts(lake, "tiny@1", stop=stop)
    assert stopped.value.exit_code == 143

    assert call("data", "index", "tiny", "--json", "--lake", lake.uri) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["parts"], made["sequences"]) == (2, ROWS)
    assert made["parts_written"] in (1, 2), "the thread of the one that was stopped may have ended its part"
    size = sum(info.size for info in lake.store.infos(attempts_folder(manifest.source)))
    assert size < ROWS, "a byte at most for a sequence"
    assert index_attempts(lake, "tiny@1")["parts_written"] == 0

    noting = Noting()
    reader = Repairer(generator=noting).reader(lake.store, manifest)
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).rows(ids), expected)  # noqa: S301 - our own bytes
    assert np.array_equal(reader.rows(ids), expected)
    assert (noting.known > 0, noting.looked_for) == (True, 0)
    table = SpecGenerator().table(manifest.source.spec, 3, SPAN, 300)
    assert np.array_equal(table["attempt"].to_numpy(), read_attempts(lake.store, manifest.source, SPAN, 300))
    assert table["attempt"].to_numpy().max() > 0

    lake.store.delete(attempts_key(manifest.source, SPAN, 300))
    mixed = Noting()
    assert np.array_equal(ComputedReader(manifest, mixed, AttemptIndex(lake.store, manifest)).rows(ids), expected)
    assert (mixed.known, mixed.looked_for) == (4, 2)


def test_a_part_that_is_damaged_costs_time_alone(tmp_path: Path) -> None:
    lake, manifest = computed(tmp_path / "lake", 50)
    index_attempts(lake, "tiny@1")
    (part,) = (tmp_path / "lake" / attempts_folder(manifest.source)).iterdir()
    ids = np.array([5, 49])
    expected = ComputedReader(manifest, SpecGenerator()).rows(ids)
    good = part.read_bytes()
    for place in range(0, len(good), len(good) // 16):  # wherever a bit flips, the rows are right
        part.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        reader = ComputedReader(manifest, SpecGenerator(), AttemptIndex(lake.store, manifest))
        assert np.array_equal(reader.rows(ids), expected), place
    part.write_bytes(b"")
    noting = Noting()
    assert np.array_equal(ComputedReader(manifest, noting, AttemptIndex(lake.store, manifest)).rows(ids), expected)
    assert (noting.known, noting.looked_for) == (0, 2)
    assert index_attempts(lake, "tiny@1")["parts_written"] == 1
    assert part.read_bytes() == good


@pytest.mark.parametrize(
    "changes",
    [{"sequences_per_rule": 4}, {"grid": [4, 4, 4], "colors": 2}, {"family": "shuffled", "base": TINY_SPEC}],
    ids=["several of a rule", "3-d", "shuffled"],
)
def test_other_specs_have_indices(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = changes if "base" in changes else TINY_SPEC | changes
    lake, manifest = computed(tmp_path / "lake", 50, spec=spec)
    index_attempts(lake, "tiny@1")
    noting = Noting()
    rows = ComputedReader(manifest, noting, AttemptIndex(lake.store, manifest)).rows(np.arange(50))
    assert np.array_equal(rows, ComputedReader(manifest, SpecGenerator()).rows(np.arange(50)))
    assert noting.looked_for == 0


def test_it_goes_with_the_last_version_that_it_is_of(tmp_path: Path) -> None:
    lake, manifest = computed(tmp_path / "lake", 50)
    index_attempts(lake, "tiny@1")
    later = Lake(open_store(lake.uri), System(clock=lambda: datetime.now(UTC) + timedelta(days=3650)))
    sweep(later, find_garbage(later))
    assert index_of(lake.store, manifest) is not None
    lake.datasets.retire("tiny", 1)
    sweep(later, find_garbage(later))
    assert index_of(lake.store, manifest) is None


def test_what_needs_no_index_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake, _ = computed(tmp_path / "lake", 50, spec={"family": "eca", "seq_len": 64})
    assert call("data", "index", "tiny@1", "--lake", lake.uri) == 2
    assert "dataset tiny@1: its spec has no band" in capsys.readouterr().err
    assert call("data", "materialize", "tiny@1", "--no-ray", "--lake", lake.uri) == 0
    assert call("data", "index", "tiny@2", "--lake", lake.uri) == 2
    assert "dataset tiny@2: is stored" in capsys.readouterr().err
