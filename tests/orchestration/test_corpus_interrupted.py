"""`corpus add` killed in the middle and run again; read from S3 by Ray's workers; files larger than memory may be."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from datalake import Lake
from datalake.maintenance.verify import verify_dataset
from orchestration.corpus.add import add_corpus

TEXTS = [f"document {number}\n" + f"{number} größe {number * 7}\n" * (number % 50 + 5) for number in range(300)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
SIZES = {"seq_len": 64, "shard_sequences": 16, "heldout_fraction": 0.2}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def test_killed_at_any_shard_and_run_again_it_makes_the_same_bytes(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(LINES))
    whole = add_corpus(lake, "text", path, **SIZES)
    expected = {key: lake.store.get(key) for key in lake.store.list("data/")}
    assert len(expected) > 20

    folder = tmp_path / "killed"
    program = (
        "import os, signal, sys\n"
        "from orchestration.corpus import add\n"
        "write, left = add.write_rows, int(sys.argv.pop(1))\n"
        "def killed(*arguments):\n"
        "    global left\n"
        "    left -= 1\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if left < 0 else write(*arguments)\n"
        "add.write_rows = killed\n"
        "from datalake import Lake\n"
        "from pathlib import Path\n"
        "add.add_corpus(Lake.open(sys.argv[2]), 'text', Path(sys.argv[1]), seq_len=64, shard_sequences=16, "
        "heldout_fraction=0.2)\n"
    )
    for shards in (0, 9):
        command = [sys.executable, "-c", program, str(shards), str(path), str(folder)]
        child = subprocess.run(command, check=False, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        half = Lake.open(str(folder))
        assert not list(half.store.list("datasets/")), "nothing has a name before all of it is there"
        assert len(list(half.store.list("data/"))) == shards
    again = add_corpus(Lake.open(str(folder)), "text", path, **SIZES)
    assert (again.train.digest, again.heldout.digest) == (whole.train.digest, whole.heldout.digest)
    assert {key: half.store.get(key) for key in half.store.list("data/")} == expected
    assert verify_dataset(half.store, half.datasets.manifest("text@1")).ok


@pytest.mark.usefixtures("ray_cluster")
def test_rays_workers_read_from_s3_where_it_lies(lake: Lake, tmp_path: Path, s3_lake_uri: str) -> None:
    from orchestration.cluster.map import RayCluster

    (tmp_path / "in").mkdir()
    for number in range(6):
        part = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[number::6]).encode()
        (tmp_path / "in" / f"{number}.jsonl.gz").write_bytes(gzip.compress(part))
        with fsspec.open(f"{s3_lake_uri}/in/{number}.jsonl.gz", "wb") as file:
            file.write(gzip.compress(part))
    here = add_corpus(lake, "here", tmp_path / "in", **SIZES)
    told: list[tuple[str, int, int]] = []
    there = add_corpus(
        lake, "there", f"{s3_lake_uri}/in", cluster=RayCluster(), progress=lambda *each: told.append(each), **SIZES
    )
    assert (there.train.digest, there.heldout.digest) == (here.train.digest, here.heldout.digest)
    sizes = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    assert ("survey", sizes, sizes) in told, "progress is told in bytes as they lie there"


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["in.jsonl.gz", "in.txt", "in.csv"])
def test_two_gigabytes_are_added_in_the_memory_of_a_few_megabytes(tmp_path: Path, kind: str) -> None:
    """Under ``ulimit -v``, what a process with its imports maps and one GiB: a file of records, or of one document."""
    text = "x" * 100 + "".join(TEXTS)[:3900].replace('"', "'")
    record = {"in.jsonl.gz": json.dumps({"text": text}) + "\n", "in.txt": text, "in.csv": f'1,"{text}"\n'}[
        kind
    ].encode()
    path = tmp_path / kind
    written = 0
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(b"id,text\n" if path.suffix == ".csv" else b"")
        while written < 2 << 30:
            block = b"".join(record.replace(b"x" * 100, f"{written + at:0100}".encode(), 1) for at in range(1024))
            written += file.write(block)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from datalake import Lake\n"
        "from orchestration.corpus.add import add_corpus\n"
        "add_corpus(Lake.open(sys.argv[2] + '-small'), 'text', Path(sys.argv[3]), seq_len=64)\n"
        "mapped = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 30),) * 2)\n"
        "result = add_corpus(Lake.open(sys.argv[2]), 'text', Path(sys.argv[1]), seq_len=4096)\n"
        "print(result.documents, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
    )
    (tmp_path / "small.jsonl").write_bytes(LINES)
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "lake"), str(tmp_path / "small.jsonl")]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    documents, peak_mib = map(int, child.stdout.split())
    assert documents == (1 if kind == "in.txt" else written // len(record))
    assert peak_mib < 800
