"""Files as they come and should not: half-written, mislabelled, ambiguous, hostile. Each is read right, or named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import DatasetReader, Lake
from orchestration.cli import main
from orchestration.corpus import places, records, structured
from orchestration.corpus.add import add_corpus
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.documents import BAD_RECORD, NO_RECORDS, NOT_TEXT, close_files, read_parts, survey_file
from orchestration.corpus.encodings import guessed_encoding
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.places import LOST_LINK, BadRecord, find_files
from orchestration.errors import CorpusError
from tests.other_user import as_nobody, open_folder

TEXTS = [f"document {number}\n" + f"{number} größe {number * 7}\n" * (number % 5 + 1) for number in range(12)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", errors="surrogateescape"))
    return path


def read(path: Path, **options: object) -> list[bytes]:
    """The texts that both readings of a file find."""
    chosen = ReadOptions(**options)
    survey = survey_file((path.name, path), chosen)
    parts = [part for row in range(len(survey.sizes)) for part in survey.document(row).parts()]
    try:
        return read_parts(parts, chosen)
    finally:
        close_files()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"notes"
HALF = len(LINES) // 2
MEMBERS = {
    "JSONL.GZ": gzip.compress(b"") + gzip.compress(LINES[:HALF]) + gzip.compress(b"") + gzip.compress(LINES[HALF:]),
    "jsonl.zst": SKIPPABLE + zstd(LINES[:HALF]) + SKIPPABLE + zstd(LINES[HALF:]) + SKIPPABLE,
    "jsonl.bz2": bz2.compress(LINES[:HALF]) + bz2.compress(LINES[HALF:]),
    "ndjson.xz": lzma.compress(LINES[:HALF]) + lzma.compress(LINES[HALF:]),
}


@pytest.mark.parametrize("suffix", MEMBERS)
def test_files_of_several_streams_are_read_whole_and_broken_ones_named(tmp_path: Path, suffix: str) -> None:
    data = MEMBERS[suffix]
    assert read(write(tmp_path / f"in.{suffix}", data)) == [text.encode() for text in TEXTS]
    flipped = bytearray(data)
    flipped[-len(data) // 4] ^= 0xFF
    for name, broken in (("cut", data[:-7]), ("flipped", bytes(flipped)), ("padded", data + b"and more")):
        with pytest.raises(CorpusError, match=rf"{name}.{suffix} cannot be read|is not JSON"):
            read(write(tmp_path / f"{name}.{suffix}", broken))


TABLES = {
    "a field too many": ("id,text\n1,one\n2,two, three\n", r"record 2 has 3 fields, the first line has 2"),
    "an open quote": ('id,text\n1,"one\n2,two\n', r"line 3 is no row \(unexpected end of data\)"),
    "text after a quote": ('id,text\n1,"one" two\n', r"line 2 is no row \(',' expected after '\"'\)"),
    "two columns of one name": ("text,text\none,two\n", r"record 1 has two columns 'text'"),
    "a field too few": ("id,text\n1,one\n2\n", r"record 2 has no 'text', it has id"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_may_mean_two_things_is_named(tmp_path: Path, case: str) -> None:
    table, says = TABLES[case]
    for name, text in (("in.csv", table), ("in.tsv", table.replace(", ", "~").replace(",", "\t").replace("~", "\t "))):
        path = write(tmp_path / name, text)
        with pytest.raises(CorpusError, match=says if name == "in.csv" else rf"{name} (record|line)"):
            read(path)
        survey = survey_file((name, path), ReadOptions(on_bad_record="skip"))
        assert survey.left.counts == {BAD_RECORD: 1}
        assert not survey.records_as_text


def test_tables_keep_what_stands_between_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", '\ufeffid,text\r\n1,"a ""b"",\r\n\nc\0"\r\n\r\n2,d\r\n')
    assert read(path) == [b'a "b",\r\n\nc\0', b"d"]
    survey = survey_file(("head.csv", write(tmp_path / "head.csv", "id,text\n")), ReadOptions())
    assert (survey.kind, len(survey.sizes), survey.records_as_text) == ("csv", 0, False), "no rows are no text either"


def test_json_files_are_records_where_any_of_the_first_is_one(tmp_path: Path, monkeypatch) -> None:
    late = write(tmp_path / "late.json", '{"url": "x"}\n\n{"text": "a"}\n')
    with pytest.raises(CorpusError, match=r"late.json line 1 has no 'text', it has url"):
        read(late)
    assert read(late, on_bad_record="skip") == [b"a"]
    assert survey_file(("in.json", write(tmp_path / "in.json", "[]")), ReadOptions()).kind == "values"
    assert survey_file(("settings.json", write(tmp_path / "settings.json", '{"a": 1}')), ReadOptions()).records_as_text
    # A whole array on one line, longer than any record may be.
    for module in (records, structured):
        monkeypatch.setattr(module, "MAX_RECORD", 1 << 12)
    line = json.dumps([{"text": "x" * 2000 + str(number)} for number in range(2000)])
    assert len(read(write(tmp_path / "line.json", line))) == 2000


def test_a_line_of_a_table_is_bounded(tmp_path: Path, monkeypatch) -> None:
    for module in (records, structured):
        monkeypatch.setattr(module, "MAX_RECORD", 1 << 12)
    with pytest.raises(CorpusError, match=r"line \d is no row \((it is larger than|field larger than)"):
        read(write(tmp_path / "in.csv", "id,text\n1," + "x" * 9000 + "\n"))


def test_a_mark_within_a_text_is_a_character(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(places, "BUFFER", 64)
    text = ("a" * 31 + "\ufeff") * 40
    path = write(tmp_path / "in.txt", ("\ufeff" + text).encode("utf-16-le"))
    assert b"".join(read(path, encoding="utf-16-le")).decode() == text


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(CorpusError, match=r"in.parquet has two columns 'text'; name each column once"):
        read(tmp_path / "in.parquet")


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "tree": "{% for a in [1, 2] recursive %}{% if loop.depth < 40 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "product": "{{ 'a' * 10 ** 11 }}",
    "power": "{{ 7 ** (8 ** 9) }}",
    "doubled": "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "added": "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "body": "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_template_that_would_not_end_is_ended(case: str, monkeypatch) -> None:
    monkeypatch.setattr("orchestration.corpus.chat._MOST_STEPS", 2_000)
    monkeypatch.setattr("orchestration.corpus.chat.MAX_RECORD", 1 << 20)
    template = ChatTemplate(ENDLESS[case])
    for _ in range(2):
        with pytest.raises(BadRecord, match=r"refused by the chat template .*(2,000 steps|more than 1 MiB)"):
            template.render([{"role": "user", "content": "x"}], "line 1")


def test_a_template_means_what_it_always_meant() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    source = (
        "{% for m in messages if m.role != 'x' %}{{ loop.index0 }}/{{ loop.length }}{{ ' last' if loop.last }}"
        "{{ loop.previtem.role if loop.previtem is defined }} {{ m.role ~ ':' ~ m['content'] * 2 }}\n{% else %}none"
        "{% endfor %}{% set x %}<{{ messages | length }}>{% endset %}{{ x }}{{ [1, 2] ~ none ~ 1.5 }}"
        "{{ 7 % 4 + 2 ** 3 }}"
    )
    rendered = ChatTemplate(source).render(messages, "line 1")
    assert rendered == "0/2 user:aa\n1/2 lastuser assistant:bb\n<2>[1, 2]None1.511"


WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize(
    "text", ["plain words\n" * 9, "Привет, люди\n" * 9, "سلام عليكم\n" * 9], ids=["en", "ru", "ar"]
)
def test_wide_text_without_a_mark_is_named_though_it_is_utf8(tmp_path: Path, encoding: str, text: str) -> None:
    path = write(tmp_path / "in.txt", text.encode(encoding))
    path.read_text(encoding="utf-8")
    survey = survey_file(("in.txt", path), ReadOptions())
    assert (survey.left.counts, len(survey.sizes)) == ({NOT_TEXT: 1}, 0)
    assert guessed_encoding(path) == f"perhaps {encoding}"
    assert read(path, encoding=encoding) == [text.encode()]
    lines = write(tmp_path / "in.jsonl", json.dumps({"text": text}).encode(encoding))
    with pytest.raises(CorpusError, match=r"in.jsonl is not UTF-8; give its encoding"):
        read(lines)
    assert read(write(tmp_path / "nul.txt", b"a few\0 are text\n")) == [b"a few\0 are text\n"]


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_a_compressed_file_without_a_byte_is_named(tmp_path: Path, suffix: str) -> None:
    for name in (f"in.jsonl.{suffix}", f"in.txt.{suffix}"):
        path = write(tmp_path / name, b"")
        with pytest.raises(CorpusError, match=rf"{name} cannot be read \(it holds nothing"):
            read(path)
        survey = survey_file((name, path), ReadOptions(on_bad_record="skip"))
        assert survey.left.counts == {BAD_RECORD: 1}


def test_a_field_that_comes_twice_is_named(tmp_path: Path) -> None:
    twice, nested = '{"text": "lost", "text": "kept"}', '{"text": "a", "meta": {"text": 1, "x": 1, "x": 2}}'
    for name, content in (("in.jsonl", f"{nested}\n{twice}\n"), ("in.json", f"[{nested},\n{twice}]")):
        path = write(tmp_path / name, content)
        with pytest.raises(CorpusError, match=rf"{name} (line|record) 2 has two fields 'text'; name each field once"):
            read(path)
        assert read(path, on_bad_record="skip") == [b"a"]


def test_what_holds_no_records_is_no_conversation_and_no_token_ids(tmp_path: Path) -> None:
    write(tmp_path / "in" / "README.md", "# A dataset\n" * 9)
    write(tmp_path / "in" / "info.json", '{"license": "none"}')
    ids = np.arange(999) * 7 % 256
    write(tmp_path / "in" / "a.jsonl", json.dumps({"ids": ids.tolist()}))
    lake = Lake.open(str(tmp_path / "lake"))
    added = add_corpus(lake, "ids", tmp_path / "in", text_column="ids", options=ReadOptions(ids=True), seq_len=16)
    assert (added.documents, added.split, added.left_out) == (1, "position", {NO_RECORDS: 2})
    # One document, so its end is held out: cut between two ids, not where a byte of one looks like a line's end.
    train, heldout = (
        reader.rows(np.arange(len(reader))).ravel()
        for reader in (DatasetReader(lake.store, lake.datasets.manifest(each)) for each in added.both())
    )
    assert np.array_equal(train, ids[: len(train)])
    assert np.array_equal(heldout, np.append(ids[-(999 * 5 // 100 + 1) :], 256)[: len(heldout)])
    with pytest.raises(CorpusError, match="1 files skipped, they hold no records"):
        add_corpus(lake, "ids", tmp_path / "in" / "README.md", text_column="ids", options=ReadOptions(ids=True))


def test_texts_beside_records_are_said_and_a_file_of_null_is_text(tmp_path: Path) -> None:
    write(tmp_path / "in" / "README.md", "# A dataset\n" * 9)
    write(tmp_path / "in" / "none.json", "null")
    write(tmp_path / "in" / "a.jsonl", LINES)
    added = add_corpus(Lake.open(str(tmp_path / "lake")), "text", tmp_path / "in", seq_len=16)
    assert (added.documents, added.records_as_text) == (14, ["none.json"])
    assert any(note.startswith("1 files without records are a document each") for note in added.notes())


def test_a_long_line_after_the_edge_leaves_enough_to_hold_out(tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt", ("x" * 3000 + "\n") * 4)
    added = add_corpus(Lake.open(str(tmp_path / "lake")), "text", path, seq_len=1024)
    assert (added.split, added.tokens) == ("position", {"train": 10 * 1024, "heldout": 1024})


def test_an_empty_word_is_no_path_and_no_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "in.txt", "text " * 99)
    for words, says in (
        ([""], "paths: '' is no path"),
        ([path, "--heldout", ""], "heldout: '' is no path"),
        ([path, "--decontaminate", ""], "decontaminate: '' is no path"),
        ([path, "--ids", ""], "text_column: '' names no field"),
        ([path, "--messages", ""], "text_column: '' names no field"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["corpus", "add", "text", *map(str, words), "--no-ray", "--lake", str(tmp_path / "lake")])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err


def test_files_whose_names_have_brackets_and_archives_in_addresses(tmp_path: Path) -> None:
    path = write(tmp_path / "x[1].txt", "text")
    assert list(find_files(f"file://{path}")) == ["x[1].txt"]
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(CorpusError, match="lies within an archive; unpack it"):
        find_files(f"zip://*.txt::file://{tmp_path}/in.zip")


def test_a_column_is_found_beside_a_struct_of_its_path(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [{"b": "wrong"}], "a.b": ["right"]}), tmp_path / "in.parquet")
    assert read(tmp_path / "in.parquet", column="a.b") == [b"right"]


def test_links_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.txt", "here")
    os.symlink("gone.txt", tmp_path / "in" / "b.txt")
    os.symlink("c.txt", tmp_path / "in" / "c.txt")
    found = find_files(tmp_path / "in")
    assert list(found) == ["a.txt"]
    assert found.left.counts == {LOST_LINK: 2}
    for lost in ("b.txt", "c.txt"):
        with pytest.raises(CorpusError, match=rf"{lost} cannot be read"):
            find_files(tmp_path / "in" / lost)


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with open_folder() as folder:
        write(folder / "in" / "closed" / "a.txt", "secret")
        write(folder / "in" / "b.txt", "open")
        (folder / "in").chmod(0o755)
        (folder / "in" / "closed").chmod(0)
        with pytest.raises(CorpusError, match=r"in/closed cannot be read \(Permission denied\)"):
            as_nobody(lambda: find_files(folder / "in"))
        (folder / "in" / "closed").chmod(0o700)


def test_a_pattern_in_quotes_means_what_a_shell_makes_of_it(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2.md", "b/3.txt", "b/c/4.txt", "b/.git/5.txt", "x[1].txt"):
        write(tmp_path / name, name)
    os.symlink(".", tmp_path / "loop")

    def found(pattern: str) -> list[str]:
        return list(find_files(tmp_path / pattern))

    assert found("*/*.txt") == ["a/1.txt", "b/3.txt", "loop/x[1].txt"]
    assert found("[ab]/**/*.txt") == ["a/1.txt", "b/3.txt", "b/c/4.txt"]
    assert found("b*") == ["3.txt", "c/4.txt"]
    assert found("x[1].txt") == ["x[1].txt"], "a file of that name comes first"
    for pattern, says in (("*.rst", "no file matches"), ("a**", "is no pattern"), ("none.txt", "does not exist")):
        with pytest.raises(CorpusError, match=says):
            found(pattern)
    with pytest.raises(CorpusError, match="does not exist"):
        find_files(Path("/" + "a" * 5000))


def test_an_encoding_that_encodes_nothing_is_refused(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    with pytest.raises(CorpusError, match="encoding: 'undefined' is unknown"):
        add_corpus(lake, "text", write(tmp_path / "in.txt", "x"), options=ReadOptions(encoding="undefined"))
