"""Text to token ids and back: raw bytes, or a byte-level BPE, trained here or given, and kept by its digest.

Both know how many UTF-8 bytes each token stands for, which is what bits per byte are counted with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from orchestration.corpus.tokenizer_pieces import adds_prefix, is_exact, piece_bytes, without_prefix
from orchestration.errors import TokenizerError

if TYPE_CHECKING:
    from datalake import Lake

MAX_VOCABULARY = 1 << 31
MAX_TRAINED = 1 << 20  # of a vocabulary that is trained here: the trainer takes memory for all of it at once
BYTES = 256
END_OF_TEXT = "<|endoftext|>"

Tokens = NDArray[np.unsignedinteger]
"""Token ids, of the ``token_dtype`` of their vocabulary."""


class TextTokenizer(Protocol):
    """What a corpus needs of a tokenizer. ``token_bytes`` is int32 [vocab_size]; end of text counts 0 bytes.

    ``end_token`` is how the token ``end_of_text`` is written. ``prefix_bytes`` counts the spaces that the first token
    of a text spells before it, as SentencePiece's do. ``exact`` says that no text whatever is changed by its tokens.
    """

    vocab_size: int
    end_of_text: int
    end_token: str
    token_bytes: NDArray[np.int32]
    prefix_bytes: int
    exact: bool

    def encode(self, documents: Sequence[bytes], begins: Sequence[bool] | None = None) -> list[Tokens]:
        """Token ids of each UTF-8 document, without the end-of-text token. ``begins`` is false for one that goes on
        where another was cut."""
        ...

    def spell(self, tokens_T: NDArray[np.integer]) -> bytes:
        """The bytes that the tokens spell, end of text and prefixes too."""
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
    prefix_bytes = 0
    exact = True

    def __init__(self) -> None:
        self.token_bytes = np.ones(self.vocab_size, dtype=np.int32)
        self.token_bytes[self.end_of_text] = 0

    def encode(self, documents: Sequence[bytes], begins: Sequence[bool] | None = None) -> list[Tokens]:
        del begins  # a byte is a token wherever it stands
        return [np.frombuffer(document, dtype=np.uint8).astype(np.uint16) for document in documents]

    def spell(self, tokens_T: NDArray[np.integer]) -> bytes:
        return tokens_T[tokens_T != self.end_of_text].astype(np.uint8).tobytes()

    def decode(self, tokens_T: NDArray[np.integer]) -> list[bytes]:
        return [piece.astype(np.uint8).tobytes() for piece in _between(tokens_T, self.end_of_text)]

    def describe(self) -> dict[str, Any]:
        return {"tokenizer": "bytes", "vocab_size": self.vocab_size, "end_of_text": self.end_of_text}


class BpeTokenizer:
    """A tokenizer of the `tokenizers` library, trained here or given: a byte-level BPE, or another kind whose tokens
    spell text. Its JSON is the tokenizer; ``digest`` is that JSON's SHA-256. ``end_of_text`` is the id that closes a
    document, by default that of ``<|endoftext|>``. ``special`` says that special tokens spelled in a text are meant, as
    a chat template means them.

    Raises TokenizerError for a tokenizer whose tokens do not spell text, or one with ids from 2**31 on.
    """

    def __init__(
        self, json_bytes: bytes, name: str | None = None, end_of_text: int | None = None, special: bool = False
    ) -> None:
        self.json_bytes = json_bytes
        self.digest = hashlib.sha256(json_bytes).hexdigest()
        self._special = special
        settings = json.loads(json_bytes)
        self._tokenizer = self._loaded(json_bytes)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.vocab_size: int = max(vocabulary.values()) + 1  # and not how many there are: given ones have gaps
        if self.vocab_size > MAX_VOCABULARY:
            raise TokenizerError(
                f"tokenizer: its ids go up to {self.vocab_size - 1}, and tokens are stored in 31 bits, "
                f"{MAX_VOCABULARY - 1} at most; use one with a smaller vocabulary"
            )
        # As `datalake.token_dtype`, which the process that tries a tokenizer need not import all of the lake for.
        self._dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        self.name = name or f"bpe:{self.vocab_size}"
        self.end_of_text = vocabulary[END_OF_TEXT] if end_of_text is None else end_of_text
        added = {token: entry.content for token, entry in self._tokenizer.get_added_tokens_decoder().items()}
        self._pieces = piece_bytes(settings, vocabulary, added, self.vocab_size)
        self.end_token = self._pieces[self.end_of_text].decode()
        self.token_bytes = np.array([len(piece) for piece in self._pieces], dtype=np.int32)
        self.token_bytes[self.end_of_text] = 0
        self.exact = not special and is_exact(settings, vocabulary)
        prefixed = not self.exact and adds_prefix(settings) and self.spell(self._encode(self._tokenizer, ["x"])[0])
        self.prefix_bytes = 1 if prefixed == b" x" else 0
        self._rest = self._tokenizer
        if self.prefix_bytes:
            self._rest = self._loaded(json.dumps(without_prefix(settings), ensure_ascii=False).encode())

    def _loaded(self, json_bytes: bytes) -> Tokenizer:
        tokenizer = Tokenizer.from_str(json_bytes.decode())
        # Without this a document that spells out the end-of-text token would be cut in two by it.
        tokenizer.encode_special_tokens = not self._special
        return tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return BpeTokenizer, (self.json_bytes, self.name, self.end_of_text, self._special)

    def for_templates(self) -> BpeTokenizer:
        """The same tokenizer, to which the special tokens in a text are special."""
        return BpeTokenizer(self.json_bytes, self.name, self.end_of_text, special=True)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(entry.content for entry in added if entry.special)

    @property
    def key(self) -> str:
        """Where the lake keeps the JSON."""
        return tokenizer_key(self.digest)

    def encode(self, documents: Sequence[bytes], begins: Sequence[bool] | None = None) -> list[Tokens]:
        texts = [document.decode() for document in documents]
        if self._rest is self._tokenizer or begins is None or all(begins):
            return self._encode(self._tokenizer, texts)
        return [
            self._encode(self._tokenizer if first else self._rest, [text])[0]
            for text, first in zip(texts, begins, strict=True)
        ]

    def _encode(self, tokenizer: Tokenizer, texts: list[str]) -> list[Tokens]:
        try:
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the library, and no Exception; it names no class to catch
                raise
            raise TokenizerError(
                f"tokenizer: the `tokenizers` library gives up on a text ({error}); use another tokenizer"
            ) from error
        return [np.array(encoding.ids, dtype=self._dtype) for encoding in encodings]

    def spell(self, tokens_T: NDArray[np.integer]) -> bytes:
        return b"".join([self._pieces[token] for token in tokens_T.tolist()])

    def decode(self, tokens_T: NDArray[np.integer]) -> list[bytes]:
        # Not the library's decode: that replaces a character cut by a row's edge, and the bytes are wanted as they are.
        found = [self.spell(piece) for piece in _between(tokens_T, self.end_of_text)]
        if not self.prefix_bytes:
            return found
        # The first may go on from the row before; where it begins with a text's first token, that cannot be told.
        return [found[0], *(text.removeprefix(b" ") for text in found[1:])] if found else found

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
            "*.json (Hugging Face) or *.tiktoken, or a dataset NAME@VERSION for the one that made it"
        )
    if not BYTES < int(size) <= MAX_TRAINED:
        raise TokenizerError(
            f"tokenizer: vocabulary {size} is outside {BYTES + 1} to {MAX_TRAINED} "
            f"(256 bytes and an end-of-text token at least); choose N within it"
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
    texts = (text for document in documents for text in _trainable(document.decode()))
    _train(tokenizer, trainer, texts)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return BpeTokenizer(tokenizer.to_str().encode())


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterator[str]) -> None:
    """Train with the texts taken in this thread: the library's own threads take turns at an iterator that they are
    given, and Python ends in a segmentation fault where it leads to one of Cython's generators, as Parquet's does."""
    handed: Queue[list[str] | None] = Queue(4)
    complete = False

    def taken() -> list[str]:
        batch = handed.get()
        if batch is None and not complete:
            raise InterruptedError  # so that no merges are learnt of what nobody will ask for
        return batch or []

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(tokenizer.train_from_iterator, iter(taken, []), trainer)

        def give(batch: list[str] | None) -> None:
            while not training.done():
                with suppress(Full):
                    handed.put(batch, timeout=1)
                    return

        try:
            for batch in _batches(texts):
                give(batch)
            complete = True
        finally:
            give(None)
        training.result()


def _batches(texts: Iterator[str], characters: int = 1 << 20) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text) + 64
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


# A merge rewrites a whole word, so the work on one grows with the square of its length. Longer runs of letters, digits,
# other characters or white space than this are no words of a language, and are learnt from in pieces.
_LONGEST_WORD = 2048
_ENDLESS = re.compile("|".join(f"{kind}{{{_LONGEST_WORD},}}" for kind in (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")))


def _trainable(text: str) -> Iterator[str]:
    begin = 0
    for run in _ENDLESS.finditer(text):
        for cut in range(run.start() + _LONGEST_WORD, run.end() + 1, _LONGEST_WORD):
            yield text[begin:cut]
            begin = cut
    yield text[begin:]


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


def tokenizer_of(lake: Lake, reference: str) -> TextTokenizer | None:
    """The tokenizer of a dataset of the lake, "NAME@VERSION"; None for what is no such reference. Raises
    TokenizerError for a dataset that no tokenizer made, and what the lake raises."""
    if "@" not in reference:
        return None
    version = lake.datasets.usable(reference)
    spec = lake.datasets.manifest(version).source.spec
    if "tokenizer" not in spec:
        raise TokenizerError(f"tokenizer: dataset {version.ref} was made by none of ours; name a dataset of text")
    return load_tokenizer(lake.store, spec)


def _between(tokens_T: NDArray[np.integer], separator: int) -> list[NDArray[np.integer]]:
    """The runs of tokens that ``separator`` stands between (empty ones left out)."""
    pieces = np.split(tokens_T, np.flatnonzero(tokens_T == separator))
    return [kept for piece in pieces if len(kept := piece[piece != separator])]
