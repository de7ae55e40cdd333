"""Generation gives the same bytes however it is run: actors, shard sizes, backends, stores, kills, races."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest

from datalake import DatasetReader, Lake
from datalake.clock import System
from datalake.errors import ObjectTooLargeError
from datalake.store.local import LocalStore
from generator import generate_batch, parse_spec
from orchestration.errors import InvalidRequestError
from orchestration.generation.job import run_generation
from orchestration.generation.local import generate_here
from orchestration.generation.request import GenerateRequest, commit_computed, request_of
from tests.ray_fixtures import TINY_SPEC

TOKENS = 700 * TINY_SPEC["seq_len"]
SEED = 17  # of this file alone: Ray's counts are the session's
USUAL = {"tokens": TOKENS, "shard_sequences": 128, "seed": SEED}
ON_RAY = USUAL | {"actors": 1}  # starting another takes longer than its work

pytestmark = pytest.mark.usefixtures("ray_cluster")


def generate(lake_uri, **changes):
    lake = Lake.open(str(lake_uri))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    return lake, run_generation(lake, GenerateRequest(params, **(ON_RAY | changes)))


def all_tokens(lake, result):
    return DatasetReader(lake.store, result.manifest).rows(np.arange(result.manifest.sequences))


def here(folder, **changes):
    """The same generation without Ray."""
    lake = Lake.open(str(folder))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    return lake, generate_here(lake, GenerateRequest(params, **(USUAL | changes)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lake, result = here(tmp_path_factory.mktemp("undisturbed") / "lake", backend="numba")
    return result.manifest, all_tokens(lake, result)


def test_two_actors_make_the_same_and_ray_counts_their_shards_under_one_name(tmp_path, undisturbed, ray_cluster):
    from ray.util.state import list_tasks

    manifest, tokens = undisturbed
    lake, result = generate(tmp_path / "lake", actors=2)
    np.testing.assert_array_equal(all_tokens(lake, result), tokens)
    assert result.manifest.content_digest == manifest.content_digest
    assert result.manifest.shards == manifest.shards
    assert result.manifest.digest == manifest.digest

    shards, digest = len(result.manifest.shards), result.manifest.source.data_digest[:8]
    deadline = time.monotonic() + 60
    names = []
    while len(names) < shards and time.monotonic() < deadline:  # workers report once a second
        time.sleep(0.2)
        names = [task.name for task in list_tasks(address=ray_cluster.dashboard, limit=10_000) if digest in task.name]
    assert names == [f"shard of {digest}"] * shards


@pytest.mark.parametrize(
    "changes",
    [{"shard_sequences": 512}, {"backend": "reference"}],
    ids=["other shard size", "reference backend"],
)
def test_the_tokens_do_not_depend_on_how_they_were_made(tmp_path, undisturbed, changes):
    manifest, tokens = undisturbed
    lake, result = here(tmp_path / "lake", **changes)
    np.testing.assert_array_equal(all_tokens(lake, result), tokens)
    assert result.manifest.content_digest == manifest.content_digest
    if "shard_sequences" not in changes:
        assert result.manifest.shards == manifest.shards
        assert result.manifest.digest == manifest.digest


def test_a_generation_reads_none_of_its_shards_back(tmp_path, undisturbed):
    class NotingStore(LocalStore):
        def get(self, key: str) -> bytes:
            read.append(key)
            return super().get(key)

    read: list[str] = []
    lake = Lake(NotingStore(tmp_path / "lake"), System())
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    result = generate_here(lake, GenerateRequest(params, **USUAL))
    assert result.manifest == undisturbed[0]
    shards = [key for key in read if key.startswith("data/")]
    assert sorted(shards) == sorted(ref.key for ref in result.manifest.shards), "each asked for once: is it there?"


@pytest.mark.soak  # tests/orchestration/test_computed.py materializes without Ray
def test_a_computed_dataset_is_materialized_into_the_same_rows(tmp_path, undisturbed):
    manifest, tokens = undisturbed
    lake = Lake.open(str(tmp_path / "lake"))
    params = lake.params.put("tiny", parse_spec(TINY_SPEC).model_dump(mode="json"))
    computed, _ = commit_computed(lake, GenerateRequest(params, **USUAL))
    result = run_generation(lake, request_of(lake, computed.ref, actors=1))
    assert (result.dataset.ref, result.dataset.same_rows_as, result.dataset.computed) == ("tiny@2", 1, False)
    assert result.manifest.digest == manifest.digest
    np.testing.assert_array_equal(all_tokens(lake, result), tokens)


def test_s3_holds_the_same_bytes_as_a_folder(s3_lake_uri, undisturbed):
    manifest, tokens = undisturbed
    lake, result = here(s3_lake_uri)
    np.testing.assert_array_equal(all_tokens(lake, result), tokens)
    assert result.manifest.digest == manifest.digest


@pytest.mark.parametrize(
    "spec",
    [
        {"family": "dyck", "seq_len": 64},
        {"family": "shuffled", "base": TINY_SPEC},
        TINY_SPEC | {"grid": [4, 4, 4], "colors": 2, "seq_len": 64},
    ],
    ids=lambda spec: spec["family"] + "-3d" * (len(spec.get("grid", ())) == 3),
)
def test_other_families_go_through_the_same_job(tmp_path, spec):
    parsed = parse_spec(spec)
    lake = Lake.open(str(tmp_path / "lake"))
    params = lake.params.put("any", parsed.model_dump(mode="json"))
    result = generate_here(lake, GenerateRequest(params, 24 * parsed.seq_len))
    expected = generate_batch(parsed, 0, 0, 24, backend="reference")
    tokens = np.frombuffer(expected["tokens"].combine_chunks().buffers()[1], dtype="<u2").reshape(24, parsed.seq_len)
    np.testing.assert_array_equal(all_tokens(lake, result), tokens)


def test_growing_keeps_every_full_shard(tmp_path):
    lake, small = here(tmp_path / "lake", tokens=300 * TINY_SPEC["seq_len"])
    larger = GenerateRequest(lake.params.get("tiny@1"), **USUAL)
    large = generate_here(lake, larger)
    assert large.manifest.shards[:2] == small.manifest.shards[:2]
    assert large.shards_reused == 2
    assert (small.dataset.version, large.dataset.version) == (1, 2)
    np.testing.assert_array_equal(all_tokens(lake, large)[:300], all_tokens(lake, small))

    again = generate_here(lake, larger)
    assert (again.shards_written, again.dataset) == (0, large.dataset), "and running again makes no version"


@pytest.mark.parametrize(
    ("field", "value"),
    [("backend", "triton"), ("tokens", 0), ("shard_sequences", 0), ("seed", -1), ("seed", 2**63), ("actors", 0)],
)
def test_a_bad_request_names_the_field_and_the_value(tmp_path, field, value):
    with pytest.raises(InvalidRequestError, match=f"{field} = {value!r}"):
        generate(tmp_path / "lake", **{field: value})
    assert not list((tmp_path / "lake").glob("data/**/*.parquet"))


def test_shards_larger_than_an_object_are_refused_before_anything_starts(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    params = lake.params.put("long", parse_spec({"family": "dyck", "seq_len": 4096}).model_dump(mode="json"))
    with pytest.raises(ObjectTooLargeError, match=r"shard_sequences = 1000000: .*give at most 524288"):
        run_generation(lake, GenerateRequest(params, tokens=2**50, shard_sequences=1_000_000))
    assert lake.runs.list() == []


def cli_generate(morphogen, lake, cluster, *flags, **options):
    arguments = [*flags, *(f"--{key}={value}" for key, value in (options | {"seed": SEED}).items())]
    return morphogen.start(
        "generate", "tiny@1", f"--tokens={TOKENS}", f"--lake={lake}", "--json", *arguments, RAY_ADDRESS=cluster.address
    )


@pytest.mark.soak  # tests/orchestration/test_no_ray.py kills one every time
@pytest.mark.parametrize("kills", [(1,), (0, 1, 3)])
def test_killed_it_ends_with_the_same_shards(tmp_path, morphogen, tiny_spec_file, ray_cluster, undisturbed, kills):
    manifest, _ = undisturbed
    lake_folder = tmp_path / "lake"
    assert morphogen.run("params", "put", "tiny", str(tiny_spec_file), "--lake", str(lake_folder)).returncode == 0
    options = {"shard-sequences": 128, "actors": 1, "backend": "reference"}
    for shards_before_the_kill in kills:
        process = cli_generate(morphogen, lake_folder, ray_cluster, **options)
        deadline = time.monotonic() + 120
        while len(list(lake_folder.glob("data/*/*.parquet"))) < shards_before_the_kill and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not list(lake_folder.glob("datasets/*/*")), "nothing is visible before the commit"
    process = cli_generate(morphogen, lake_folder, ray_cluster, **options)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["digest"] == manifest.digest
    assert summary["shards_reused"] >= kills[-1]


def test_a_stopped_generation_says_so_in_one_line_and_shows_no_trace(tmp_path, morphogen, tiny_spec_file, ray_cluster):
    lake_folder = tmp_path / "lake"
    assert morphogen.run("params", "put", "tiny", str(tiny_spec_file), "--lake", str(lake_folder)).returncode == 0
    options = {"shard-sequences": 16, "actors": 1, "backend": "reference"}
    process = cli_generate(morphogen, lake_folder, ray_cluster, **options)
    deadline = time.monotonic() + 120
    while not list(lake_folder.glob("data/*/*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    lines = err.splitlines()
    assert lines[-1].startswith("stopped (SIGTERM): run generate-tiny-"), err
    assert not [line for line in lines if "Traceback" in line or "Error" in line or "ray::" in line], err


def test_two_generations_racing_leave_one_version(tmp_path, morphogen, tiny_spec_file, ray_cluster, undisturbed):
    manifest, _ = undisturbed
    lake_folder = tmp_path / "lake"
    morphogen.run("params", "put", "tiny", str(tiny_spec_file), "--lake", str(lake_folder))
    racers = [
        cli_generate(morphogen, lake_folder, ray_cluster, "--no-ray", **{"shard-sequences": 128}) for _ in range(2)
    ]
    summaries = []
    for process in racers:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        summaries.append(json.loads(out))
    assert [summary["dataset"] for summary in summaries] == ["tiny@1", "tiny@1"]
    assert [summary["digest"] for summary in summaries] == [manifest.digest] * 2
    lake = Lake.open(str(lake_folder))
    assert [version.version for version in lake.datasets.history("tiny")] == [1]
    assert lake.datasets.manifest(lake.datasets.get("tiny@1")).sequences == 700
