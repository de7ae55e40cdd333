"""Tokenizers that are brought along give the tokens that their own library gives, and unusable ones are refused."""

import base64
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from datalake import DatasetReader, Lake
from orchestration.corpus.add import add_corpus
from orchestration.corpus.tokenizer_files import read_tokenizer
from orchestration.corpus.tokenizers import BpeTokenizer, load_tokenizer
from orchestration.errors import TokenizerError

GPT2_SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CORPUS = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """What a tiktoken file holds, the pieces of a byte-level BPE, trained here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, "<|endoftext|>"], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    pieces = BpeTokenizer(tokenizer.to_str().encode())
    return {
        b"".join(pieces.decode(np.array([token]))): token
        for token in range(pieces.vocab_size)
        if token != pieces.end_of_text
    }


@pytest.fixture(scope="module")
def rank_file(ranks, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "ours.tiktoken"
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    return path


def test_a_tiktoken_file_gives_tiktokens_tokens(ranks, rank_file):
    ours = read_tokenizer(rank_file)
    theirs = tiktoken.Encoding(
        "ours", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)}
    )
    assert (ours.vocab_size, ours.end_of_text) == (theirs.n_vocab, len(ranks))

    @given(
        st.one_of(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(CORPUS).map(lambda t: t[:300]))
    )
    @settings(max_examples=150, deadline=None)
    def agree(text):
        (tokens,) = ours.encode([text.encode()])
        assert tokens.tolist() == theirs.encode(text, disallowed_special=())
        assert int(ours.token_bytes[tokens].sum()) == len(text.encode())

    agree()


def test_a_corpus_remembers_the_file_that_made_it(rank_file, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    (tmp_path / "in").mkdir()
    for number, text in enumerate(CORPUS):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    result = add_corpus(lake, "code", tmp_path / "in", tokenizer=str(rank_file), seq_len=64, heldout_fraction=0.3)
    manifest = lake.datasets.manifest(result.train)
    assert manifest.source.spec["tokenizer"] == "file"
    tokenizer = load_tokenizer(lake.store, manifest.source.spec)
    rows = DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences))
    read_back = b"".join(tokenizer.decode(rows.ravel())).decode(errors="ignore")
    assert any(text in read_back for text in CORPUS)
    assert (
        add_corpus(lake, "code", tmp_path / "in", tokenizer=str(rank_file), seq_len=64, heldout_fraction=0.3) == result
    )


def test_a_tokenizer_json_is_taken_with_its_quirks(tmp_path):
    """Gaps in its ids, added words that are plain text, a beginning token that its template would add."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["        "])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.enable_truncation(4)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    ours = read_tokenizer(path)
    assert ours.end_of_text == tokenizer.token_to_id("</s>")
    text = "def größe():\n        return '</s>'\n"
    (tokens,) = ours.encode([text.encode()])
    assert tokenizer.token_to_id("<s>") not in tokens
    assert ours.end_of_text not in tokens
    assert tokenizer.token_to_id("        ") in tokens
    assert b"".join(ours.decode(tokens)) == text.encode()
    assert int(ours.token_bytes[tokens].sum()) == len(text.encode())
    assert read_tokenizer(path, "<s>").end_of_text == tokenizer.token_to_id("<s>")
    with pytest.raises(TokenizerError, match=r"end_of_text: .* has no token <end>"):
        read_tokenizer(path, "<end>")


def test_what_cannot_be_used_is_refused_by_name(tmp_path):
    cases = {
        "missing.json": (None, r"cannot be read \(No such file"),
        "other.json": (b"{}", "is no tokenizer of the `tokenizers` library"),
        "broken.tiktoken": (b"not ranks", "is no file of ranks"),
        "words.json": (_word_level(), "does not keep text: .Plain words"),
        "endless.json": (_byte_level_without_end(), "has no token .*endoftext.* declared special.*; name the token"),
    }
    for name, (content, says) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=says) as raised:
            read_tokenizer(tmp_path / name)
        assert "\n" not in str(raised.value)


def _word_level() -> bytes:
    return _ended(Tokenizer(models.WordLevel({"</s>": 0, "größe mehr": 1}, unk_token="</s>")))


def _byte_level_without_end() -> bytes:
    return Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str().encode()


def _ended(tokenizer: Tokenizer) -> bytes:
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer.to_str().encode()
