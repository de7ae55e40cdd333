"""Text into the lake: which files, which split, which tokens; the same bytes again, and nothing left out unsaid."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake import DatasetReader, DatasetVersion, Lake, Manifest, content_digest, read_shard, verify_dataset
from datalake.errors import InvalidNameError
from orchestration.corpus.add import add_corpus, stdlib_files
from orchestration.corpus.files import find_files, split_of, survey_files
from orchestration.corpus.tokenizers import BpeTokenizer, ByteTokenizer, load_tokenizer, tokenizer_key, train_bpe
from orchestration.errors import CorpusError, TokenizerError

ROOT = Path(__file__).resolve().parents[2]
EOT = 256


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty documents, about 12 kB, among them text that is not ASCII."""
    root = tmp_path / "texts"
    for number in range(40):
        path = root / f"part{number % 3}" / f"{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Document {number}: " + f"grüße aus zelle {number}, " * (number % 9 + 8) + "\n")
    return root


def manifest_of(lake: Lake, version: DatasetVersion) -> Manifest:
    return lake.datasets.manifest(version)


def rows_of(lake: Lake, manifest: Manifest) -> np.ndarray:
    return DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences))


def expected_rows(documents: Iterable[bytes], seq_len: int) -> np.ndarray:
    """The definition, written out: bytes, a 256 after each document, cut; the rest dropped."""
    tokens = [token for document in documents for token in [*document, EOT]]
    rows = len(tokens) // seq_len
    return np.array(tokens[: rows * seq_len], dtype=np.uint16).reshape(rows, seq_len)


def documents_of(folder: Path, split: str, fraction: float) -> list[bytes]:
    files = sorted(find_files(folder).items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return [path.read_bytes() for relative, path in files if split_of(relative, fraction) == split]


def test_rows_are_the_documents_end_to_end(lake, folder):
    result = add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3, shard_sequences=16, message="why")
    for version, split in ((result.train, "train"), (result.heldout, "heldout")):
        manifest = manifest_of(lake, version)
        documents = documents_of(folder, split, 0.3)
        assert (rows_of(lake, manifest) == expected_rows(documents, 64)).all()
        assert result.tokens[split] == manifest.tokens
        assert result.tokens[split] + result.tokens_dropped[split] == sum(len(document) + 1 for document in documents)
        assert manifest.vocab_size == result.vocab_size == 257
        assert manifest.content_digest == content_digest(lake.store, manifest.shards)
        assert [shard.rows for shard in manifest.shards[:-1]] == [16] * (len(manifest.shards) - 1)
        assert verify_dataset(lake.store, manifest).ok
    assert (result.train.name, result.heldout.name) == ("texts", "texts-heldout")
    assert result.files == 40
    assert result.bytes == sum(path.stat().st_size for path in find_files(folder).values())


def test_target_bytes_count_the_text_that_each_row_predicts(lake, folder):
    for tokenizer in ("bytes", "bpe:300"):
        result = add_corpus(lake, "texts", folder, tokenizer=tokenizer, seq_len=32, heldout_fraction=0.3)
        manifest = manifest_of(lake, result.train)
        text = load_tokenizer(lake.store, manifest.source.spec)
        total = 0
        for shard in manifest.shards:
            table = read_shard(lake.store, shard)
            for row in table.to_pylist():
                predicted = np.frombuffer(row["tokens"], dtype="<u2")[1:]
                assert row["target_bytes"] == sum(map(len, text.decode(predicted)))
                total += row["target_bytes"]
        assert manifest.text_bytes == total


def test_adding_again_gives_the_same_versions_and_objects(lake, folder):
    for tokenizer in ("bytes", "bpe:300"):
        first = add_corpus(lake, "texts", folder, tokenizer=tokenizer, seq_len=64, heldout_fraction=0.3)
        objects = list(lake.store.list(""))
        again = add_corpus(lake, "texts", folder, tokenizer=tokenizer, seq_len=64, heldout_fraction=0.3)
        assert (again.train, again.heldout) == (first.train, first.heldout)
        assert list(lake.store.list("")) == objects


def test_where_the_folder_stands_does_not_matter(lake, folder, tmp_path):
    moved = tmp_path / "elsewhere" / "deep"
    one = add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3)
    moved.parent.mkdir()
    folder.rename(moved)
    assert add_corpus(lake, "texts", moved, seq_len=64, heldout_fraction=0.3).train == one.train


def test_heldout_stays_while_train_grows(lake, folder):
    before = add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3)
    added = next(name for name in map("new{}.txt".format, range(100)) if split_of(name, 0.3) == "train")
    (folder / added).write_text("a document that was not there before\n" * 9)
    after = add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3)
    assert after.heldout == before.heldout
    assert after.train.version == before.train.version + 1


def test_what_is_left_out_is_said(lake, folder):
    (folder / "z-copy.txt").write_bytes((folder / "part0" / "00.txt").read_bytes())
    (folder / "latin.txt").write_bytes("grüße".encode("latin-1"))
    (folder / "nothing.txt").touch()
    result = add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3)
    assert (result.duplicates, result.undecodable, result.empty) == (1, 1, 1)
    assert result.files == 40
    notes = sorted(result.notes()[:3])
    assert notes[:2] == [
        "1 empty documents skipped (first: nothing.txt)",
        "1 exact duplicates dropped (first: z-copy.txt)",
    ]
    assert notes[2].startswith("1 files skipped, not UTF-8 text (first: latin.txt, perhaps cp")
    for dataset in result.both():  # with text lost, whoever opens the dataset can see it
        assert manifest_of(lake, dataset).left_out == result.left_out


def test_no_document_is_in_both_splits(folder):
    for path in list(find_files(folder).values()):
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    documents = survey_files(find_files(folder), 0.3).documents
    train, heldout = ({document.sha256 for document in documents[split]} for split in ("train", "heldout"))
    assert len(train) + len(heldout) == 40
    assert not train & heldout


def test_files_are_found_in_the_order_of_their_paths(folder, tmp_path):
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("hidden")
    (folder / "part0" / "notes.md").write_text("another kind")
    (folder / "loop").symlink_to(folder)
    found = find_files(folder, ("*.txt",))
    assert list(found) == sorted(found)
    assert len(found) == 40
    assert "part0/notes.md" in find_files(folder)
    named = find_files([folder / "part0" / "notes.md", folder / "part1"], ("*.txt",))
    assert next(iter(named)) == "part0/notes.md"
    assert list(find_files(folder / "part0" / "notes.md", root=tmp_path)) == ["texts/part0/notes.md"]


def test_the_standard_library_is_sorted_and_ours_alone():
    files = stdlib_files()
    names = {path.name for path in files}
    assert files == sorted(files, key=os.fsencode)
    assert {"argparse.py", "random.py"} <= names
    assert not any({"site-packages", "test", "tests"} & {*path.parts} for path in files)


def test_the_split_is_a_hash_of_the_path():
    for path in ("a.py", "b/c.py", "ü.txt"):
        position = int(hashlib.sha256(path.encode()).hexdigest()[:16], 16) / 2**64
        assert split_of(path, position + 1e-9) == "heldout"
        assert split_of(path, position) == "train"
    share = sum(split_of(f"{number}.py", 0.05) == "heldout" for number in range(4000)) / 4000
    assert 0.035 < share < 0.065


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_tokens_decode_to_the_same_bytes(texts):
    documents = [text.encode() for text in texts if text]
    for tokenizer in (ByteTokenizer(), _BPE):
        encoded = tokenizer.encode(documents)
        assert [b"".join(tokenizer.decode(tokens)) for tokens in encoded] == documents
        assert [int(tokenizer.token_bytes[tokens].sum()) for tokens in encoded] == list(map(len, documents))
        assert all(tokenizer.end_of_text not in tokens for tokens in encoded)


_BPE = train_bpe([b"the cat sat on the mat; the rat sat on the cat. " * 20, "größe, größer ".encode() * 20], 320)


def test_text_that_spells_the_end_of_text_does_not_end():
    document = b"before <|endoftext|> after"
    (tokens,) = _BPE.encode([document])
    assert _BPE.end_of_text not in tokens
    assert _BPE.decode(tokens) == [document]
    joined = np.concatenate([tokens, [_BPE.end_of_text], tokens])
    assert _BPE.decode(joined) == [document, document]


def test_a_bpe_is_the_same_in_every_process():
    code = (
        "from pathlib import Path; from orchestration.corpus.tokenizers import train_bpe; "
        "texts = [path.read_bytes() for path in sorted(Path('datalake').glob('*.py'))]; "
        "print(train_bpe(texts, 1024).digest)"
    )
    digests = set()
    for hash_seed, threads in (("1", "1"), ("2", "3")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_a_bpe_is_kept_by_its_digest_and_checked(lake, folder):
    result = add_corpus(lake, "texts", folder, tokenizer="bpe:300", seq_len=32, heldout_fraction=0.3)
    manifest = manifest_of(lake, result.train)
    spec = manifest.source.spec
    assert (result.vocab_size, manifest.vocab_size, spec["tokenizer"]) == (300, 300, "bpe:300")
    assert spec["tokenizer_digest"] == result.tokenizer_digest
    tokenizer = load_tokenizer(lake.store, spec)
    text = b"".join(tokenizer.decode(rows_of(lake, manifest).ravel()))
    assert text == b"".join(documents_of(folder, "train", 0.3))[: len(text)]
    assert result.tokens["train"] < len(text)

    key = tokenizer_key(result.tokenizer_digest)
    (Path(lake.store.uri.removeprefix("file://")) / key).write_bytes(_BPE.json_bytes)
    with pytest.raises(TokenizerError, match=r"found SHA-256 .* delete it and add the corpus again"):
        load_tokenizer(lake.store, spec)


def test_a_bpe_takes_no_more_vocabulary_than_the_text_offers():
    tokenizer = train_bpe([b"ab"], 5000)
    assert tokenizer.vocab_size == 258  # 256 bytes, one merge, end of text
    assert BpeTokenizer(tokenizer.json_bytes).digest == tokenizer.digest


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"tokenizer": "words"}, TokenizerError, "'words' is unknown; use 'bytes' or 'bpe:N'"),
        ({"tokenizer": "bpe:2000000"}, TokenizerError, "vocabulary 2000000 is outside 257 to 1048576"),
        ({"tokenizer": "bpe:256"}, TokenizerError, "vocabulary 256 is outside 257 to 1048576"),
        ({"seq_len": 1}, CorpusError, "seq_len: 1 "),
        ({"heldout_fraction": 1.0}, CorpusError, "heldout_fraction: 1.0 is not between"),
        ({"shard_sequences": 0}, CorpusError, "shard_sequences: 0 "),
        ({"patterns": ("*.rst",)}, CorpusError, r"no file matches \*.rst"),
        ({"paths": Path("/no/such/folder")}, CorpusError, "/no/such/folder does not exist"),
        ({"root": Path("/usr")}, CorpusError, "/usr does not hold every path"),
        ({"seq_len": 50_000}, CorpusError, "fewer than one row of 50000; give more text"),
        ({"tokenizer": "bpe:300", "seq_len": 2_000, "heldout_fraction": 0.1}, CorpusError, "the heldout split has"),
        ({"name": "../texts"}, InvalidNameError, "'../texts' is not allowed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(lake, folder, arguments, error, says):
    fitting = {"name": "texts", "paths": folder, "seq_len": 64, "heldout_fraction": 0.3}
    with pytest.raises(error, match=says) as raised:
        add_corpus(lake, **fitting | arguments)
    assert "\n" not in str(raised.value)
    assert list(lake.store.list("")) == []


def test_a_file_that_changes_meanwhile_is_refused(lake, folder):
    changed = next(path for relative, path in find_files(folder).items() if split_of(relative, 0.3) == "train")

    def touch(stage, done, total):
        if (stage, done) == ("survey", total):
            changed.write_text("something else")

    with pytest.raises(CorpusError, match=r"changed while it was being read; add the corpus again"):
        add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3, progress=touch)
    assert lake.datasets.list() == []


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "broken.txt").symlink_to(folder / "part0")
    with pytest.raises(CorpusError, match=r"broken.txt cannot be read \(Is a directory\); mend"):
        survey_files({"broken.txt": folder / "broken.txt"}, 0.3)


def test_progress_counts_every_byte_of_every_stage(lake, folder):
    told = []
    add_corpus(lake, "texts", folder, seq_len=64, heldout_fraction=0.3, progress=lambda *event: told.append(event))
    last = {stage: (done, total) for stage, done, total in told}
    size = sum(path.stat().st_size for path in find_files(folder).values())
    assert last["survey"] == (size, size)
    assert last["train"][0] == last["train"][1]
    assert last["train"][1] + last["heldout"][1] == size
