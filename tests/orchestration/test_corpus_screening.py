"""Near-duplicates and text of an evaluation set are left out, and counted in the summary and the manifest."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import DatasetReader, Lake
from orchestration.cli import main
from orchestration.corpus import records
from orchestration.corpus.add import add_corpus
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.screening import CONTAMINATED, Screen, ScreenOptions, open_screen
from orchestration.corpus.similar import NEAR_DUPLICATE
from orchestration.errors import CorpusError

WORDS = [f"{a}{b}" for a in "bcdfghjklmnpqrst" for b in ("ago", "eri", "ulu", "ymo")]


def text_of(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def changed(text: str, every: int) -> str:
    """The text with each ``every``-th word another one."""
    return " ".join("other" if at % every == every - 1 else word for at, word in enumerate(text.split(" ")))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def test_near_duplicates_are_dropped_and_counted(lake: Lake, tmp_path: Path) -> None:
    texts = [text_of(seed) for seed in range(30)]
    near = [changed(text, 100) for text in texts[:8]]  # 5 of 116 runs of five words, so 0.92 in common
    far = [changed(text, 10) for text in texts[8:16]]  # about half of the runs, 0.33 in common
    short = ["two words", "two  words!", "three other words"]
    path = write_lines(tmp_path / "in.jsonl", [*texts, *near, *far, *short])
    all_of_them = add_corpus(lake, "all", path, seq_len=64)
    result = add_corpus(lake, "some", path, seq_len=64, screening=ScreenOptions(near_duplicates=0.8))
    assert all_of_them.documents == 49
    assert result.left_out == {NEAR_DUPLICATE: 9}
    assert result.first_left_out[NEAR_DUPLICATE][0] == "in.jsonl#30"
    assert result.documents == 40
    assert "9 near-duplicates dropped (first: in.jsonl#30)" in result.notes()
    assert lake.datasets.manifest(result.train).left_out == {NEAR_DUPLICATE: 9}
    assert lake.datasets.manifest(all_of_them.train).left_out is None
    again = add_corpus(lake, "some", path, seq_len=64, screening=ScreenOptions(near_duplicates=0.8))
    assert again.train == result.train
    everything = add_corpus(lake, "least", path, seq_len=64, screening=ScreenOptions(near_duplicates=0.3))
    assert everything.left_out[NEAR_DUPLICATE] > 9


def test_nearly_equal_texts_are_not_kept_on_both_sides(lake: Lake, tmp_path: Path) -> None:
    texts = [text_of(seed) for seed in range(12)]
    train = write_lines(tmp_path / "train.jsonl", [changed(text, 100) for text in texts[:4]] + texts[4:])
    heldout = write_lines(tmp_path / "heldout.jsonl", texts[:4])
    result = add_corpus(
        lake, "some", train, heldout_paths=[heldout], seq_len=64, screening=ScreenOptions(near_duplicates=0.8)
    )
    assert result.left_out == {NEAR_DUPLICATE: 4}
    assert result.first_left_out[NEAR_DUPLICATE][0] == "train.jsonl#0"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_what_shares_text_with_the_evaluation_set_is_dropped_and_counted(lake: Lake, tmp_path: Path, kind: str) -> None:
    texts = [text_of(seed) for seed in range(40)]
    question = "What do Ulu and Ymo say to AGO when the long day, at last, is over for all of them?"
    stolen = question.lower().replace(",", " -").replace("?", "!")
    texts[7] += f" {stolen} {text_of(99)}"
    texts[9] += " what do ulu and ymo say to ago when"  # a run of nine is not thirteen
    evaluation = [question, "too short"]
    if kind == "parquet":
        pq.write_table(pa.table({"question": evaluation}), tmp_path / "eval.parquet")
    elif kind == "jsonl":
        write_lines(tmp_path / "eval.jsonl", evaluation, "question")
    else:
        (tmp_path / "eval.txt").write_text("\n".join(evaluation))
    screening = ScreenOptions(against=[tmp_path / f"eval.{kind}"], columns=["question"])
    result = add_corpus(lake, "some", write_lines(tmp_path / "in.jsonl", texts), seq_len=64, screening=screening)
    assert result.left_out == {CONTAMINATED: 1}
    assert result.first_left_out[CONTAMINATED] == ["in.jsonl#7"]
    assert result.evaluation_too_short == (0 if kind == "txt" else 1)
    for version in result.both():
        manifest = lake.datasets.manifest(version)
        assert manifest.left_out == {CONTAMINATED: 1}
        rows = DatasetReader(lake.store, manifest).rows(range(manifest.sequences))
        assert stolen.encode() not in rows.astype("u1").tobytes()
    nine = ScreenOptions(against=screening.against, columns=["question"], words=9)
    assert add_corpus(lake, "nine", tmp_path / "in.jsonl", seq_len=64, screening=nine).left_out == {CONTAMINATED: 2}


def test_a_long_text_is_screened_across_the_edges_of_its_pieces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(records, "PIECE", 256)
    text = "\n".join(text_of(seed, 9) for seed in range(60))
    phrase = " ".join(text.split()[80:100])
    (tmp_path / "eval.txt").write_text(phrase)
    screen = open_screen(ScreenOptions(near_duplicates=0.8, against=[tmp_path / "eval.txt"]), ReadOptions())
    whole, pieces = screen.document(), screen.document()
    whole.feed(text.encode())
    for piece in records.pieces_of(text.encode()):
        pieces.feed(piece)
    assert whole.signature() == pieces.signature()
    assert whole.contaminated
    assert pieces.contaminated
    by_word = screen.document()
    for word in text.split():
        by_word.feed(f"{word} ".encode())
    assert by_word.signature() == whole.signature()
    assert by_word.contaminated


def test_scripts_without_spaces_have_a_word_a_letter() -> None:
    screen = Screen(True, open_runs("日本語の文章はそのまま単語ではない"), 13)
    document = screen.document()
    document.feed("これは日本語の文章はそのまま単語ではないと思う".encode())
    assert document.contaminated


def open_runs(text: str):
    from orchestration.corpus.screening import _hashed, runs_of

    return runs_of(_hashed(text), 13)


def test_what_cannot_be_screened_is_refused_in_one_line(lake: Lake, tmp_path: Path, capsys) -> None:
    path = write_lines(tmp_path / "in.jsonl", [text_of(seed) for seed in range(12)])
    cases = [
        (ScreenOptions(near_duplicates=0.0), r"near_duplicates: 0.0 is not between 0.1 and 1"),
        (ScreenOptions(words=1), "words: 1 in common"),
        (ScreenOptions(against=[tmp_path / "none"]), "none"),
        (ScreenOptions(against=[path], words=500), r"decontaminate: nothing in .*in.jsonl has 500 words .*12 shorter"),
        (ScreenOptions(against=[path], columns=["x"]), r"in.jsonl line 1 has no 'x', it has text"),
    ]
    for screening, says in cases:
        with pytest.raises(CorpusError, match=says) as raised:
            add_corpus(lake, "no", path, seq_len=64, screening=screening)
        assert "\n" not in str(raised.value)
    with pytest.raises(SystemExit) as exit_:
        main(["corpus", "add", "no", str(path), "--decontaminate", str(path), "--lake", lake.uri])
    assert exit_.value.code == 2
    assert "12 documents dropped, they share text with the evaluation set" in capsys.readouterr().err
