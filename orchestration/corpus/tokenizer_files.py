"""Tokenizers that a user brings: a Hugging Face ``tokenizer.json`` or a ``*.tiktoken`` file of ranks, both byte-level.

What the lake keeps is one format, the `tokenizers` library's JSON, whichever came in.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from orchestration.corpus.tokenizers import END_OF_TEXT, BpeTokenizer
from orchestration.errors import TokenizerError

# What published byte-level tokenizers call the token that ends a document.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")


def read_tokenizer(path: Path, end_of_text: str | None = None) -> BpeTokenizer:
    """The tokenizer in a file; ``end_of_text`` names the token that ends a document where it has an unusual name.

    A ``*.tiktoken`` file holds ranks only. The text is split as GPT-2 does, which is what the published files whose
    vocabularies fit 16 bits (``gpt2``, ``r50k_base``, ``p50k_base``) are made for, and ``<|endoftext|>`` takes the
    first free id. Raises TokenizerError.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"tokenizer: {path} cannot be read ({error.strerror}); give a *.json or *.tiktoken file"
        ) from error
    json_bytes = _from_ranks(path, content) if path.suffix == ".tiktoken" else content
    try:
        vocabulary = Tokenizer.from_str(json_bytes.decode()).get_vocab()
        json_bytes = _bare(json_bytes)
    except Exception as error:  # the library raises nothing more particular for JSON that is no tokenizer
        raise TokenizerError(
            f"tokenizer: {path} is no tokenizer of the `tokenizers` library ({error}); give its tokenizer.json"
        ) from error
    ends = [end_of_text] if end_of_text is not None else [end for end in _ENDS if end in vocabulary]
    if not ends or ends[0] not in vocabulary:
        raise TokenizerError(
            f"end_of_text: {path} has no token {ends[0] if ends else ' or '.join(_ENDS)}; "
            "name the token that ends a document"
        )
    return BpeTokenizer(json_bytes, "file", vocabulary[ends[0]])


def _bare(json_bytes: bytes) -> bytes:
    """Without what would add, cut or pad tokens: documents are framed and cut by us."""
    settings = json.loads(json_bytes) | {"post_processor": None, "truncation": None, "padding": None}
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def _from_ranks(path: Path, content: bytes) -> bytes:
    """The same tokenizer as JSON. A token's rank is its id and its order of merging."""
    try:
        from transformers.convert_slow_tokenizer import TikTokenConverter
    except ImportError as error:
        raise TokenizerError(
            f"tokenizer: {path} needs transformers to be read; install morphogen[hf], or give a tokenizer.json"
        ) from error
    try:
        pairs = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise TokenizerError(
            f"tokenizer: {path} is no file of ranks ({error}); each line holds a token in base64 and its rank"
        ) from error

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(_path: str) -> dict[bytes, int]:
            return ranks  # read here: the library's own reader keeps a copy by path, and would not see a new file

    vocabulary, merges = Converter(str(path)).extract_vocab_merges_from_model(str(path))
    taken = set(ranks.values())
    vocabulary[END_OF_TEXT] = next(token for token in range(len(taken) + 1) if token not in taken)
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer.to_str().encode()
