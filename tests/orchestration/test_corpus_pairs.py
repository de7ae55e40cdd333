"""Prompts and answers: every pair whole in a row, every token's role right, and one clear line for what is no pair."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake import DatasetReader, Lake
from datalake.maintenance.export import export_dataset
from orchestration.cli import main
from orchestration.corpus.add import add_corpus
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.packing import packer
from orchestration.corpus.pairs import MARK, Pairs, marked, parts_of, plain
from orchestration.corpus.places import MAX_RECORD, BadRecord
from orchestration.corpus.tokenizers import load_tokenizer
from orchestration.errors import CorpusError

PAIRS = [(f"What is {n} plus {n * n}?", f"{n} + {n * n} = {n + n * n}\n#### {n + n * n}") for n in range(80)]
CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|end|>{% endgeneration %}{% else %}{{ message.content }}<|end|>{% endif %}\n"
    "{% endfor %}"
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs_file(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    return write(path, [{"id": at, "ask": ask, "say": say} for at, (ask, say) in enumerate(pairs)])


def add(lake: Lake, path: Path, **changes: Any) -> Any:
    pairs = changes.pop("pairs", Pairs("say"))
    options = ReadOptions(pairs=pairs, on_bad_record=changes.pop("on_bad_record", "fail"))
    return add_corpus(lake, changes.pop("name", "sft"), path, options=options, text_column="ask", **changes)


def found_pairs(lake: Lake, version: Any) -> list[tuple[bytes, bytes]]:
    """(given, answer) of every pair in the rows, by the roles alone; what is padding is nothing else."""
    manifest = lake.datasets.manifest(version)
    reader, tokenizer = DatasetReader(lake.store, manifest), load_tokenizer(lake.store, manifest.source.spec)
    everything = np.arange(manifest.sequences)
    found = []
    for tokens_T, roles_T in zip(reader.rows(everything), reader.roles(everything), strict=True):
        assert (tokens_T[0], roles_T[0]) == (tokenizer.end_of_text, 1)
        content = int((roles_T > 0).sum())
        assert (roles_T[:content] > 0).all()
        assert (tokens_T[content:] == tokenizer.end_of_text).all()
        edges = [0, *(np.flatnonzero(np.diff(roles_T[1:content])) + 1).tolist(), content - 1]
        runs = [tokens_T[1:][a:b] for a, b in pairwise(edges)]
        for given_, answer in zip(runs[::2], runs[1::2], strict=True):
            assert answer[-1] == tokenizer.end_of_text
            found.append((tokenizer.spell(given_), tokenizer.spell(answer[:-1])))
    return found


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_pair_is_whole_in_a_row_with_its_answer_told(lake: Lake, tmp_path: Path, tokenizer: str) -> None:
    result = add(lake, pairs_file(tmp_path / "in.jsonl"), tokenizer=tokenizer, seq_len=96, heldout_fraction=0.2)
    found = found_pairs(lake, result.train) + found_pairs(lake, result.heldout)
    assert sorted(found) == sorted((f"{ask}\n".encode(), say.encode()) for ask, say in PAIRS)
    assert result.documents == 80
    assert result.bytes == sum(len(f"{ask}\n{say}") for ask, say in PAIRS)
    assert set(result.tokens_dropped.values()) == {0}
    assert 0 < result.answers["train"] + result.padding["train"] < result.tokens["train"]
    again = add(lake, tmp_path / "in.jsonl", tokenizer=tokenizer, seq_len=96, heldout_fraction=0.2)
    assert (again.train, again.heldout) == (result.train, result.heldout)


def test_every_format_of_records_gives_the_same_rows(lake: Lake, tmp_path: Path) -> None:
    rows = [{"ask": ask, "say": say} for ask, say in PAIRS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=7)
    (tmp_path / "in.json").write_text(json.dumps(rows))
    quoted = [",".join('"' + text.replace('"', '""') + '"' for text in pair) for pair in (("ask", "say"), *PAIRS)]
    (tmp_path / "in.csv").write_text("\n".join(quoted) + "\n")
    pairs_file(tmp_path / "in.jsonl")
    digests = {
        suffix: lake.datasets.manifest(
            add(lake, tmp_path / f"in.{suffix}", name=suffix, seq_len=96, split_by="content").train
        ).content_digest
        for suffix in ("jsonl", "json", "csv", "parquet")
    }
    assert len(set(digests.values())) == 1, digests


def test_a_model_s_own_tokenizer_is_found_in_the_lake(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(f"{number} apples and {number} pears are plenty. " * 9)
    text = add_corpus(lake, "text", tmp_path / "text", tokenizer="bpe:280", seq_len=32, heldout_fraction=0.3)
    result = add(lake, pairs_file(tmp_path / "in.jsonl"), tokenizer=text.train.ref, seq_len=96)
    specs = [lake.datasets.manifest(version).source.spec for version in (text.train, result.train)]
    assert specs[0]["tokenizer_digest"] == specs[1]["tokenizer_digest"]
    assert specs[0]["tokenizer"] == specs[1]["tokenizer"]


def test_exports_list_roles(lake: Lake, tmp_path: Path) -> None:
    result = add(lake, pairs_file(tmp_path / "in.jsonl"), seq_len=96)
    manifest = lake.datasets.manifest(result.heldout)
    export_dataset(lake.store, manifest, tmp_path / "lines", "jsonl")
    export_dataset(lake.store, manifest, tmp_path / "hf", "huggingface")
    line = json.loads((tmp_path / "lines" / "sequences.jsonl").read_text().splitlines()[0])
    roles = DatasetReader(lake.store, manifest).roles(np.array([0]))[0].tolist()
    assert line["roles"] == roles
    (path,) = (tmp_path / "hf").rglob("*.parquet")
    assert pq.read_table(path).column("roles").to_pylist()[0] == roles


TURNS = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "4"},
]


@pytest.mark.parametrize(
    ("template", "answers"), [(CHATML, ["2<|end|>\n", "4<|end|>\n"]), (MARKED, ["2<|end|>", "4<|end|>"])]
)
def test_what_the_assistant_says_is_an_answer(template: str, answers: list[str]) -> None:
    chat = ChatTemplate(template)
    document = marked(chat.turns(TURNS, "line 1"))
    assert plain(document).decode() == chat.render(TURNS, "line 1")
    told = parts_of(document)
    assert [part.decode() for part, answer in told if answer and part] == answers
    assert told[-1][1], "the end of the text is the assistant's"
    assert not parts_of(marked(chat.turns(TURNS[:3], "line 1")))[-1][1], "unless it is the user who spoke last"


def test_conversations_become_rows_with_roles(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHATML)
    path = write(
        tmp_path / "in.jsonl",
        [{"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]} for ask, say in PAIRS],
    )
    common = {"template": tmp_path / "chat.jinja", "seq_len": 96}
    options = ReadOptions(pairs=Pairs())
    talk = add_corpus(lake, "talk", path, options=options, text_column="messages", messages=True, **common)
    expected = sorted(
        (f"<|user|>{ask}<|end|>\n<|assistant|>".encode(), f"{say}<|end|>\n".encode()) for ask, say in PAIRS
    )
    assert sorted(found_pairs(lake, talk.train) + found_pairs(lake, talk.heldout)) == expected
    fields = add(lake, pairs_file(tmp_path / "pairs.jsonl"), **common)
    assert sorted(found_pairs(lake, fields.train) + found_pairs(lake, fields.heldout)) == expected


@pytest.mark.parametrize(
    ("messages", "template", "says"),
    [
        (TURNS[:1], CHATML, "no message of the assistant"),
        ([TURNS[0], {"role": "assistant", "content": ""}], CHATML, "message 2, of the assistant, is empty"),
        ([TURNS[0], {"role": "assistant", "content": 2}], CHATML, "message 2, of the assistant, is of type int"),
        ([TURNS[0], {"role": "assistant", "content": None}], CHATML, "is of type NoneType"),
        (TURNS, "{{ messages | length }}" + CHATML, "renders message 2 otherwise once others follow it"),
        (TURNS, "", "message 2, of the assistant, adds nothing"),
        (TURNS, "{{ messages | length }}{% generation %}{% endgeneration %}", "marks nothing of it"),
        ([TURNS[0], {"role": "assistant", "content": "\ufdd0"}], MARKED, "U\\+FDD0"),
        (TURNS * 251, CHATML, "has 502 turns of the assistant, and 500 are the limit"),
        (TURNS, "{{ raise_exception('no turns') }}", "refused by the chat template .*no turns"),
        ({"role": "user"}, CHATML, "has no messages"),
    ],
)
def test_a_conversation_without_answers_is_refused(messages: Any, template: str, says: str) -> None:
    with pytest.raises(BadRecord, match=says):
        ChatTemplate(template).turns(messages, "line 1")


PIECES = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.booleans()), max_size=6)


@given(PIECES)
def test_marks_keep_parts_apart(parts: list[tuple[str, bool]]) -> None:
    document = marked(parts)
    assert plain(document).decode() == "".join(text for text, _ in parts)
    told = [(char, answer) for part, answer in parts_of(document) for char in part]
    assert told == [(char, answer) for text, answer in parts for char in text.encode()]
    if parts:
        assert parts_of(document)[-1][1] == parts[-1][1]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(2, 24))
def test_whole_documents_are_never_cut(lengths: list[int], seq_len: int) -> None:
    documents = [np.full(length, 100 + at, dtype=np.uint64) for at, length in enumerate(lengths)]
    packed = packer("whole", seq_len, np.dtype(np.uint64), 7)
    rows = np.concatenate([packed.add(documents[:30]), packed.add(documents[30:]), packed.finish()])
    assert (rows[:, 0] == 7).all()
    fit = [document for document in documents if len(document) < seq_len]
    runs = [run for row in rows for run in np.split(row, np.flatnonzero(np.diff(row)) + 1) if run[0] != 7]
    assert sorted(map(tuple, runs)) == sorted(map(tuple, fit))
    assert packed.too_long == len(documents) - len(fit)
    assert packed.lost == sum(length for length in lengths if length >= seq_len)
    for first, second in pairwise(rows):
        free, begin = int((first[1:] == 7).sum()), int((second != 7).sum())
        assert free == 0 or begin > 0


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0), capsys.readouterr().err


GOOD = b'{"ask": "1 + 1?", "say": "2"}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"ask": "a", "say": ""}\n', "line 1 has an empty answer 'say'"),
        (b'{"ask": "a", "say": " \\n"}\n', "line 1 has an empty answer 'say'"),
        (b'{"ask": "", "say": "b"}\n', "line 1 has an empty prompt 'ask'"),
        (GOOD + b'{"ask": "a"}\n', "error: answer_field: "),
        (GOOD + b'{"ask": "a"}\n', "line 2 has no 'say', it has ask"),
        (b'{"say": "a"}\n', "line 1 has no 'ask', it has say"),
        (b'{"say": "a"}\n', "error: prompt_field: "),
        (b'{"ask": "a", "say": null}\n', "line 1 has null for its answer 'say'"),
        (b'{"ask": "a", "say": 4}\n', "'say' is of type int, not text; write it as a string in quotes"),
        (b'{"ask": ["a"], "say": "b"}\n', "'ask' is of type list, not text"),
        (b'{"ask": "a", "say": "1", "say": "2"}\n', "has two fields 'say'"),
        (b'{"ask": "\xff", "say": "b"}\n', "utf-8"),
        (b"[1]\n", "line 1 has no 'ask', it has list"),
        (b"oops\n", "line 1 is not JSON"),
        (b"\n\n", "of 0 pairs the train split gets none; 2 empty documents skipped"),
        (b"", "of 0 pairs the train split gets none"),
        (b'{"ask": "' + b"a" * 40 + b'", "say": "b"}\n', "record 1 is a pair of 43 tokens, and a row of 32 holds 31"),
        (b'{"ask": "' + b"a" * MAX_RECORD + b'", "say": "b"}\n', "line 1 is larger than 64 MiB"),
        (GOOD, "of 1 pairs the heldout split gets none"),
    ],
)
def test_what_is_no_pair_is_refused_in_a_line(tmp_path: Path, capsys, content: bytes, says: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    fields = ["--prompt-field", "ask", "--answer-field", "say", "--seq-len", 32]
    if "heldout" not in says:
        fields += ["--heldout-fraction", 0]
    code, error = run(capsys, "corpus", "add", "sft", tmp_path / "in.jsonl", *fields, "--lake", tmp_path / "lake")
    *stages, line = error.strip().splitlines()
    assert code == 2
    assert says in line
    assert all(stage.endswith("…") for stage in stages), error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prompt-field", "ask"], "belong together"),
        (["--answer-field", "say"], "belong together"),
        (["--prompt-field", "ask", "--answer-field", "ask"], "holds the prompt, too"),
        (["--prompt-field", "ask", "--answer-field", "say", "--messages", "m"], "give --messages or --prompt-field"),
        (["--prompt-field", "ask", "--answer-field", "say", "--packing", "concat"], "leave --packing out"),
        (["--prompt-field", "ask", "--answer-field", "say", "--ray"], "leave --ray out"),
        (["--prompt-field", "ask", "--answer-field", "say", "--ids", "ask"], "leave --ids out"),
        (["--prompt-field", "ask", "--answer-field", "say", "--split-by", "position"], "would cut pairs"),
        (["--answers"], "says that of --messages"),
        (["--separator", " "], "stands between"),
        (["--chat-template", "x"], "renders --messages"),
        (["--prompt-field", "ask", "--answer-field", "say", "--chat-template", "nowhere"], "nowhere cannot be read"),
        (["--tokenizer", "nothing@1"], "nothing"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, capsys, options: list[str], says: str) -> None:
    path = pairs_file(tmp_path / "in.jsonl")
    code, error = run(capsys, "corpus", "add", "sft", path, *options, "--lake", tmp_path / "lake")
    assert code == 2
    assert says in error.strip().splitlines()[-1]


def test_pairs_longer_than_a_row_are_counted_where_that_is_asked_for(lake: Lake, tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "in.jsonl", [*PAIRS, ("long", "x" * 100), ("longer", "x" * 200)])
    with pytest.raises(CorpusError, match=r"is a pair of \d+ tokens, and a row of 96 holds 95; raise --seq-len"):
        add(lake, path, seq_len=96)
    result = add(lake, path, seq_len=96, on_bad_record="skip")
    assert result.left_out["pairs left out, longer than a row"] == 2
    assert sum(result.tokens_dropped.values()) == 5 + 101 + 7 + 201
    assert any("pairs left out, longer than a row" in note for note in result.notes())


def test_a_mark_is_no_byte_of_any_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        MARK.decode()
