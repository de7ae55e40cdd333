"""Documents from JSON lines and Parquet, on Ray or not, cut or packed whole: each token is in a row or counted lost."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake import DatasetReader, Lake
from datalake.shards.tokens import NARROW
from orchestration.corpus import rows as corpus_rows
from orchestration.corpus.add import CorpusResult, add_corpus
from orchestration.corpus.files import find_files, survey_files
from orchestration.corpus.packing import packer
from orchestration.corpus.profile import profile_corpus
from orchestration.errors import CorpusError

TEXTS = [f"Eintrag {number}: " + "wächst und wächst, " * (number % 7 + 1) for number in range(60)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def write_records(folder: Path, kind: str, texts: list[str | None], column: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"train-00000-of-00001.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"id": n, column: text}) + "\n" for n, text in enumerate(texts)))
    else:
        pq.write_table(pa.table({"id": range(len(texts)), column: texts}), path, row_group_size=7)
    return path


def rows_of(lake: Lake, result: CorpusResult) -> list[np.ndarray]:
    manifests = [lake.datasets.manifest(version) for version in (result.train, result.heldout)]
    return [DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences)) for manifest in manifests]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_each_record_is_a_document(lake, tmp_path, kind):
    path = write_records(tmp_path / "in", kind, [*TEXTS, None, "", TEXTS[3]])
    result = add_corpus(lake, "records", path, seq_len=32, heldout_fraction=0.3)
    assert (result.files, result.documents) == (1, 60)
    assert (result.empty, result.duplicates) == (2, 1)
    assert result.first_left_out["empty documents skipped"] == [f"{path.name}#60", f"{path.name}#61"]
    assert result.first_left_out["exact duplicates dropped"] == [f"{path.name}#62"]
    assert lake.datasets.manifest(result.train).left_out is None  # nothing is lost, and old manifests said nothing
    documents = survey_files(find_files(path), 0.3).documents
    assert [d.record for d in documents["train"]] == sorted(d.record for d in documents["train"])
    for rows, split in zip(rows_of(lake, result), ("train", "heldout"), strict=True):
        tokens = [t for d in documents[split] for t in [*TEXTS[d.record].encode(), 256]]
        assert rows.ravel().tolist() == tokens[: rows.size]
        assert len(tokens) == result.tokens[split] + result.tokens_dropped[split]


def test_a_record_stays_in_its_split_when_records_are_added(tmp_path):
    before = survey_files(find_files(write_records(tmp_path / "a", "jsonl", TEXTS[:40])), 0.3).documents
    after = survey_files(find_files(write_records(tmp_path / "b", "jsonl", TEXTS)), 0.3).documents
    for split in ("train", "heldout"):
        assert after[split][: len(before[split])] != []
        assert [d.sha256 for d in after[split] if d.record < 40] == [d.sha256 for d in before[split]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "fine"}\n{"text": oops}\n', "line 2 is not JSON"),
        ('{"body": "fine"}\n', "line 1 has no 'text', it has body; name the field"),
        ("[1, 2]\n", "line 1 has no 'text', it has list"),
        ('{"text": 7}\n', "'text' is of type int, not text"),
    ],
)
def test_a_broken_json_line_is_named(lake, tmp_path, content, says):
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=says):
        add_corpus(lake, "records", path, seq_len=8)
    assert list(lake.store.list("")) == []


def test_a_broken_parquet_file_is_named(lake, tmp_path):
    for table, says in (
        (pa.table({"body": ["a"]}), "has no 'text', it has body"),
        (pa.table({"text": [7]}), "'text' is of type int64, not text"),
    ):
        pq.write_table(table, tmp_path / "in.parquet")
        with pytest.raises(CorpusError, match=says):
            add_corpus(lake, "records", tmp_path / "in.parquet", seq_len=8)
    (tmp_path / "in.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        add_corpus(lake, "records", tmp_path / "in.parquet", seq_len=8)


documents = st.lists(st.integers(1, 40), max_size=80)


@given(documents, st.integers(2, 17), st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("packing", ["concat", "best-fit"])
def test_every_token_is_in_a_row_or_counted_lost(packing, lengths, seq_len, data):
    ends = np.cumsum([0, *lengths])
    texts = [np.arange(a, b, dtype=np.uint16) for a, b in pairwise(ends)]
    cut = data.draw(st.integers(0, len(texts)))
    pack = packer(packing, seq_len, NARROW)
    rows = np.concatenate([pack.add(texts[:cut]), pack.add(texts[cut:]), pack.finish()])
    assert rows.dtype == np.uint16
    assert rows.shape[1] == seq_len
    assert len(np.unique(rows)) == rows.size
    assert rows.size + pack.lost == ends[-1]
    again = packer(packing, seq_len, NARROW)
    assert (np.concatenate([again.add(texts), again.finish()]) == rows).all()
    if packing == "best-fit":
        starts = {start for text in texts for start in text[::seq_len].tolist()}
        assert set(rows[:, 0].tolist()) <= starts, "a row begins inside a piece"
    else:
        assert rows.ravel().tolist() == list(range(rows.size))


def test_best_fit_keeps_documents_whole_where_it_can():
    pack = packer("best-fit", 8, NARROW)
    texts = [np.full(length, length, dtype=np.uint16) for length in (3, 6, 4, 2, 5, 4, 10)]
    rows = np.concatenate([pack.add(texts), pack.finish()])
    assert pack.lost == 34 % 8
    assert rows.tolist() == [[10] * 8, [6] * 6 + [2] * 2, [5] * 5 + [3] * 3, [4] * 8]


def test_the_packing_is_part_of_what_a_corpus_is(lake, tmp_path):
    path = write_records(tmp_path / "in", "jsonl", TEXTS)
    cut = add_corpus(lake, "cut", path, seq_len=64, heldout_fraction=0.3)
    whole = add_corpus(lake, "whole", path, seq_len=64, packing="best-fit", heldout_fraction=0.3)
    assert "packing" not in lake.datasets.manifest(cut.train).source.spec
    assert lake.datasets.manifest(whole.train).source.spec["packing"] == "best-fit"
    for result in (cut, whole):
        tokens = sum(len(text.encode()) + 1 for text in TEXTS)
        assert sum(result.tokens.values()) + sum(result.tokens_dropped.values()) == tokens
        assert any("lost: they do not fit the rows" in note for note in result.notes())
    with pytest.raises(CorpusError, match="packing: 'tight' is unknown; use 'concat' or 'best-fit'"):
        add_corpus(lake, "cut", path, packing="tight")


def test_a_tokenizer_is_trained_from_parquet_as_from_lines(lake, tmp_path):
    texts = [text * 300 for text in TEXTS]  # enough for the library's threads to take turns
    digests = set()
    for kind in ("jsonl", "parquet"):
        write_records(tmp_path / kind, kind, texts)
        added = add_corpus(lake, kind, tmp_path / kind, tokenizer="bpe:300", seq_len=16, heldout_fraction=0)
        digests.add(added.tokenizer_digest)
    assert len(digests) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_ray_gives_the_same_bytes_and_the_same_errors(lake, tmp_path, monkeypatch):
    from orchestration.cluster.map import RayCluster

    monkeypatch.setattr(corpus_rows, "_GROUP_BYTES", 2000)  # several groups
    write_records(tmp_path / "in", "jsonl", TEXTS)
    write_records(tmp_path / "in" / "more", "parquet", [text[::-1] for text in TEXTS])
    arguments = {"seq_len": 16, "heldout_fraction": 0.3, "shard_sequences": 32}
    for packing, tokenizer in (("concat", "bpe:300"), ("best-fit", "bytes")):
        how = {**arguments, "packing": packing, "tokenizer": tokenizer}
        here = add_corpus(lake, "here", tmp_path / "in", **how)
        there = add_corpus(lake, "there", tmp_path / "in", **how, cluster=RayCluster())
        assert (there.train.digest, there.heldout.digest) == (here.train.digest, here.heldout.digest)
    (tmp_path / "in" / "broken.jsonl").write_text("{")
    with pytest.raises(CorpusError, match=r"broken\.jsonl line 1 is not JSON"):
        add_corpus(lake, "there", tmp_path / "in", **arguments, cluster=RayCluster())


def test_compressibility_tells_texts_apart(lake, tmp_path):
    folders = {"flat": "over and over again. ", "noisy": None}
    rng = np.random.default_rng(5)
    found = {}
    for name, phrase in folders.items():
        (tmp_path / name).mkdir()
        for number in range(12):
            text = phrase * 300 if phrase else "".join(map(chr, rng.integers(32, 127, 6000)))
            (tmp_path / name / f"{number}.txt").write_text(f"{number} {text}")
        add_corpus(lake, name, tmp_path / name, seq_len=400, heldout_fraction=0.3)
        found[name] = profile_corpus(lake, f"{name}@1")
    assert found["flat"].gzip_text < 0.05
    assert 0.8 < found["noisy"].gzip_text < 0.9  # log2(95) of 8 bits
    for score in ("gzip-int32-v1", "gzip-int32-v1-normalized"):
        assert found["flat"].scores[score] < found["noisy"].scores[score]
    add_corpus(lake, "short", tmp_path / "noisy", seq_len=64, heldout_fraction=0.3)
    with pytest.raises(CorpusError, match="rows of 64 tokens, and 360 are scored"):
        profile_corpus(lake, "short@1")
