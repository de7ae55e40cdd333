"""An export on a Ray cluster: tasks write to the bucket, and what they write is what threads here write."""

from __future__ import annotations

from pathlib import Path

import pytest

from datalake import Lake
from datalake.errors import ExportRefusedError
from datalake.maintenance.export_targets import open_target
from generator import parse_spec
from orchestration.generation.export import ExportRequest, run_export
from orchestration.generation.request import GenerateRequest, commit_computed
from tests.ray_fixtures import TINY_SPEC


@pytest.mark.usefixtures("ray_cluster")
def test_tasks_write_the_same_files_and_say_the_same_errors(tmp_path: Path, s3_lake_uri: str) -> None:
    lake = Lake.open(s3_lake_uri)
    params = lake.params.put("code", parse_spec(TINY_SPEC).model_dump(mode="json"))
    seq_len = TINY_SPEC["seq_len"]
    commit_computed(lake, GenerateRequest(params, 40 * seq_len, shard_sequences=16))
    request = {"format": "litdata", "file_tokens": 16 * seq_len}
    shards: list[int] = []

    def begin(count: int):
        shards.append(count)
        return lambda done, _note: shards.append(done)

    here = run_export(lake, ExportRequest("code@1", str(tmp_path / "out"), **request), begin)
    target = open_target(f"{s3_lake_uri}-export")
    there = run_export(lake, ExportRequest("code@1", target.address, **request, ray=True), begin)
    assert there == here
    assert {name: target.read(name) for name in target.found()} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()
    }
    assert shards[0] == max(shards) == 3
    other = open_target(f"{s3_lake_uri}-other")
    other.create("unfinished-export.json", target.read("manifest.json"))  # of another export
    with pytest.raises(Exception, match="unfinished export of other data"):
        run_export(lake, ExportRequest("code@1", other.address, **request, ray=True), begin)
    with pytest.raises(ExportRefusedError, match="allowed are parquet"):
        run_export(lake, ExportRequest("code@1", other.address, format="arrow", ray=True), begin)
