"""``*.tiktoken`` files, which hold ranks only, as a tokenizer's JSON: how the text is split must be known besides."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from orchestration.console.foreign import shown
from orchestration.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_ENDS}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_ENDS}"
)


@dataclass(frozen=True)
class Encoding:
    """A published encoding: its pattern (None for GPT-2's), how many ranks its file has, and its special tokens."""

    pattern: str | None
    ranks: int
    special: dict[str, int]


_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
ENCODINGS = {
    "gpt2": Encoding(None, 50_256, {END_OF_TEXT: 50_256}),
    "r50k_base": Encoding(None, 50_256, {END_OF_TEXT: 50_256}),
    "p50k_base": Encoding(None, 50_280, {END_OF_TEXT: 50_256}),
    "cl100k_base": Encoding(
        _CL100K,
        100_256,
        {END_OF_TEXT: 100_257, **{name: 100_258 + n for n, name in enumerate(_FIM)}, "<|endofprompt|>": 100_276},
    ),
    "o200k_base": Encoding(_O200K, 199_998, {END_OF_TEXT: 199_999, "<|endofprompt|>": 200_018}),
}
_SMALL = 65_536  # files without a name of their own and up to this size are taken for GPT-2's kind


def from_ranks(path: Path, content: bytes, split_pattern: str | None) -> bytes:
    """The same tokenizer as JSON. A token's rank is its id and its order of merging.

    The text is split as ``split_pattern`` says, the name of a published encoding or a regular expression; by default
    as the encoding that the file is named after, and GPT-2 for a small one of another name. ``<|endoftext|>`` takes
    the published id where the file is the published one, and otherwise the first free one. Raises TokenizerError.
    """
    ranks = _ranks(path, content)
    name = split_pattern or (path.stem if path.stem in ENCODINGS else None)
    if name is None and len(ranks) > _SMALL:
        raise TokenizerError(
            f"split_pattern: {shown(path)} does not say how it splits text; name one of {', '.join(ENCODINGS)}, or "
            "give its regular expression"
        )
    encoding = ENCODINGS.get(name or "gpt2", Encoding(name, len(ranks), {}))
    taken = set(ranks.values())
    special = {END_OF_TEXT: next(token for token in range(len(taken) + 1) if token not in taken)}
    if encoding.special and len(ranks) == encoding.ranks:
        special = encoding.special
    vocabulary, merges = _merges(path, ranks)
    vocabulary |= special
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = _splitter(encoding.pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer.to_str().encode()


def _splitter(pattern: str | None) -> pre_tokenizers.PreTokenizer:
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if re.search(r"\{\d+(,\d*)?\}\+", pattern):
        raise TokenizerError(
            "split_pattern: a possessive count such as {1,3}+ is read as a repetition here; leave out the +, which "
            "changes only the speed"
        )
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception as error:  # the library raises nothing more particular for a pattern that is none
        raise TokenizerError(f"split_pattern: {pattern!r} is no regular expression ({error}); give another") from error
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _ranks(path: Path, content: bytes) -> dict[bytes, int]:
    try:
        pairs = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise TokenizerError(
            f"tokenizer: {shown(path)} is no file of ranks ({error}); each line holds a token in base64 and its rank"
        ) from error
    missing = next((value for value in range(256) if bytes([value]) not in ranks), None)
    if missing is not None:
        raise TokenizerError(f"tokenizer: {shown(path)} has no rank for the byte {missing}; give the whole file")
    return ranks


def _merges(path: Path, ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    try:
        from transformers.convert_slow_tokenizer import TikTokenConverter
    except ImportError as error:
        raise TokenizerError(
            f"tokenizer: {shown(path)} needs transformers to be read; install morphogen[hf], or give a tokenizer.json"
        ) from error

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(_path: str) -> dict[bytes, int]:
            return ranks  # read here: the library's own reader keeps a copy by path, and would not see a new file

    return Converter(str(path)).extract_vocab_merges_from_model(str(path))
