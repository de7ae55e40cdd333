"""Text to token ids and back: raw bytes, or a byte-level BPE, trained here or given, and kept by its digest.

Both know how many UTF-8 bytes each token stands for, which is what bits per byte are counted with.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from orchestration.errors import TokenizerError

MAX_VOCABULARY = 65_536  # tokens are stored as uint16
BYTES = 256
END_OF_TEXT = "<|endoftext|>"


class TextTokenizer(Protocol):
    """What a corpus needs of a tokenizer. ``token_bytes`` is int32 [vocab_size]; end of text counts 0 bytes.

    ``end_token`` is how the token ``end_of_text`` is written.
    """

    vocab_size: int
    end_of_text: int
    end_token: str
    token_bytes: NDArray[np.int32]

    def encode(self, documents: Sequence[bytes]) -> list[NDArray[np.uint16]]:
        """Token ids of each UTF-8 document, without the end-of-text token."""
        ...

    def decode(self, tokens_T: NDArray[np.integer]) -> list[bytes]:
        """The pieces of text between end-of-text tokens; a token cut by a row's edge may leave half a character."""
        ...

    def describe(self) -> dict[str, Any]:
        """The fields that a dataset's spec keeps of this tokenizer."""
        ...


class ByteTokenizer:
    """Token = byte value; 256 ends a text. Vocabulary 257."""

    vocab_size = BYTES + 1
    end_of_text = BYTES
    end_token = END_OF_TEXT

    def __init__(self) -> None:
        self.token_bytes = np.ones(self.vocab_size, dtype=np.int32)
        self.token_bytes[self.end_of_text] = 0

    def encode(self, documents: Sequence[bytes]) -> list[NDArray[np.uint16]]:
        return [np.frombuffer(document, dtype=np.uint8).astype(np.uint16) for document in documents]

    def decode(self, tokens_T: NDArray[np.integer]) -> list[bytes]:
        return [piece.astype(np.uint8).tobytes() for piece in _between(tokens_T, self.end_of_text)]

    def describe(self) -> dict[str, Any]:
        return {"tokenizer": "bytes", "vocab_size": self.vocab_size, "end_of_text": self.end_of_text}


class BpeTokenizer:
    """A byte-level BPE, trained here or given. Its JSON (the `tokenizers` library's) is the tokenizer; ``digest`` is
    that JSON's SHA-256. ``end_of_text`` is the id that closes a document, by default that of ``<|endoftext|>``.

    Raises TokenizerError for a tokenizer whose tokens do not stand for bytes, or one with ids over 65,535.
    """

    def __init__(self, json_bytes: bytes, name: str | None = None, end_of_text: int | None = None) -> None:
        self.json_bytes = json_bytes
        self.digest = hashlib.sha256(json_bytes).hexdigest()
        self._tokenizer: Tokenizer = Tokenizer.from_str(json_bytes.decode())
        # Without this a document that spells out the end-of-text token would be cut in two by it.
        self._tokenizer.encode_special_tokens = True
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.vocab_size: int = max(vocabulary.values()) + 1  # and not how many there are: given ones have gaps
        if self.vocab_size > MAX_VOCABULARY:
            raise TokenizerError(
                f"tokenizer: its ids go up to {self.vocab_size - 1}, and tokens are stored in 16 bits, "
                f"{MAX_VOCABULARY - 1} at most; use one with a smaller vocabulary"
            )
        self.name = name or f"bpe:{self.vocab_size}"
        self.end_of_text = vocabulary[END_OF_TEXT] if end_of_text is None else end_of_text
        self._pieces = self._piece_bytes(vocabulary)
        self.end_token = self._pieces[self.end_of_text].decode()
        self.token_bytes = np.array([len(piece) for piece in self._pieces], dtype=np.int32)
        self.token_bytes[self.end_of_text] = 0

    def _piece_bytes(self, vocabulary: dict[str, int]) -> list[bytes]:
        """The bytes of every id. Byte-level pieces spell a byte with one character; added tokens are plain text."""
        values = {character: value for value, character in enumerate(byte_characters())}
        pieces = [b""] * self.vocab_size
        added = {token: entry.content for token, entry in self._tokenizer.get_added_tokens_decoder().items()}
        for piece, token in vocabulary.items():
            if token in added:
                pieces[token] = added[token].encode()
            elif values.keys() >= set(piece):
                pieces[token] = bytes(values[character] for character in piece)
            else:
                raise TokenizerError(
                    f"tokenizer: token {token} ({piece!r}) does not spell bytes; use a byte-level tokenizer, as GPT-2's"
                )
        return pieces

    def __reduce__(self) -> tuple[Any, ...]:
        return BpeTokenizer, (self.json_bytes, self.name, self.end_of_text)

    @property
    def key(self) -> str:
        """Where the lake keeps the JSON."""
        return tokenizer_key(self.digest)

    def encode(self, documents: Sequence[bytes]) -> list[NDArray[np.uint16]]:
        encodings = self._tokenizer.encode_batch_fast([document.decode() for document in documents])
        return [np.array(encoding.ids, dtype=np.uint16) for encoding in encodings]

    def decode(self, tokens_T: NDArray[np.integer]) -> list[bytes]:
        # Not the library's decode: that replaces a character cut by a row's edge, and the bytes are wanted as they are.
        return [b"".join(self._pieces[token] for token in piece) for piece in _between(tokens_T, self.end_of_text)]

    def describe(self) -> dict[str, Any]:
        return {
            "tokenizer": self.name,
            "tokenizer_digest": self.digest,
            "vocab_size": self.vocab_size,
            "end_of_text": self.end_of_text,
        }


def tokenizer_key(digest: str) -> str:
    """Object key of a trained tokenizer's JSON."""
    return f"tokenizers/{digest}.json"


def parse_tokenizer(name: str) -> int | None:
    """None for ``bytes``, the vocabulary size for ``bpe:N``; TokenizerError for anything else or N out of range."""
    if name == "bytes":
        return None
    kind, _, size = name.partition(":")
    if kind != "bpe" or not size.isdecimal():
        raise TokenizerError(
            f"tokenizer: {name!r} is unknown; use 'bytes' or 'bpe:N', for example 'bpe:4096', or a file "
            "*.json (Hugging Face) or *.tiktoken"
        )
    if not BYTES < int(size) <= MAX_VOCABULARY:
        raise TokenizerError(
            f"tokenizer: vocabulary {size} is outside {BYTES + 1} to {MAX_VOCABULARY} "
            f"(256 bytes and an end-of-text token at least, 16-bit tokens at most); choose N within it"
        )
    return int(size)


def train_bpe(documents: Iterable[bytes], vocab_size: int) -> BpeTokenizer:
    """A byte-level BPE over UTF-8 documents; the last id is the end-of-text token.

    The vocabulary comes out smaller than ``vocab_size`` where the text offers fewer merges.
    Equal documents in equal order give an equal digest under one version of `tokenizers`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.decode() for document in documents), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return BpeTokenizer(tokenizer.to_str().encode())


def load_tokenizer(store: Any, spec: Mapping[str, Any]) -> TextTokenizer:
    """The tokenizer that a text dataset's spec names, got from ``store`` and checked by digest."""
    if spec["tokenizer"] == "bytes":
        return ByteTokenizer()
    digest = spec["tokenizer_digest"]
    json_bytes = store.get(tokenizer_key(digest))
    if (found := hashlib.sha256(json_bytes).hexdigest()) != digest:
        raise TokenizerError(
            f"{tokenizer_key(digest)}: found SHA-256 {found}, expected {digest}; "
            "the object is corrupt: delete it and add the corpus again"
        )
    return BpeTokenizer(json_bytes, spec["tokenizer"], spec["end_of_text"])


def _between(tokens_T: NDArray[np.integer], separator: int) -> list[NDArray[np.integer]]:
    """The runs of tokens that ``separator`` stands between (empty ones left out)."""
    pieces = np.split(tokens_T, np.flatnonzero(tokens_T == separator))
    return [kept for piece in pieces if len(kept := piece[piece != separator])]


def byte_characters() -> list[str]:
    """The character that byte-level pieces spell each byte value with.

    Printable Latin-1 stands for itself, the rest for U+0100 upwards in order: the table of GPT-2's byte-level BPE.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(BYTES))
    return [chr(value) if value in printable else chr(BYTES + next(shifted)) for value in range(BYTES)]
