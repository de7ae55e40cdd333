"""What the tokens of a `tokenizers` file spell, and which texts its tokens keep: read off its settings.

Four ways of spelling are known: byte-level (a character for each byte, as GPT-2's), SentencePiece's (``▁`` for a space
and ``<0x0A>`` for a byte), WordPiece's (``##`` before what goes on), and plain text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from orchestration.errors import TokenizerError

BYTES = 256
_SPACE = "▁"
# Pre-tokenisers that only divide a text; ``Split`` does where its behaviour keeps what it splits at.
_DIVIDE = {"ByteLevel", "Digits", "UnicodeScripts", "FixedLength"}


def byte_characters() -> list[str]:
    """The character that byte-level pieces spell each byte value with.

    Printable Latin-1 stands for itself, the rest for U+0100 upwards in order: the table of GPT-2's byte-level BPE.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(BYTES))
    return [chr(value) if value in printable else chr(BYTES + next(shifted)) for value in range(BYTES)]


def piece_bytes(
    settings: Mapping[str, Any], vocabulary: Mapping[str, int], added: Mapping[int, str], size: int
) -> list[bytes]:
    """The bytes of every id; ids that nothing has spell nothing. Added tokens are plain text.

    Raises TokenizerError for a byte-level tokenizer with a piece that spells no bytes.
    """
    values = {character: value for value, character in enumerate(byte_characters())}
    kinds = {part["type"] for place in ("pre_tokenizer", "decoder") for part in _parts(settings.get(place))}
    plain = {piece: token for piece, token in vocabulary.items() if token not in added}
    model = settings["model"]
    other = (
        {"Metaspace", "ByteFallback", "WordPiece"} & kinds or model.get("byte_fallback") or model["type"] == "Unigram"
    )
    byte_level = "ByteLevel" in kinds or (not other and all(values.keys() >= set(piece) for piece in plain))
    pieces = [b""] * size
    for token, text in added.items():
        pieces[token] = text.encode()
    for piece, token in plain.items():
        continues = model.get("continuing_subword_prefix") or ""
        text = piece.removeprefix(continues)
        if byte_level:
            if not values.keys() >= set(text):
                raise TokenizerError(
                    f"tokenizer: token {token} ({piece!r}) does not spell bytes, as a byte-level tokenizer's tokens "
                    "do; use one whose pieces do"
                )
            pieces[token] = bytes(values[character] for character in text)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            pieces[token] = bytes.fromhex(piece[3:5])
        else:
            pieces[token] = text.replace(_SPACE, " ").encode(errors="replace")
    return pieces


def is_exact(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """Whether the settings alone show that no text is changed: a byte-level BPE with every byte and no normaliser."""
    splitters = list(_parts(settings.get("pre_tokenizer")))
    divides = all(
        (part["type"] in _DIVIDE and not part.get("add_prefix_space"))
        or (part["type"] == "Split" and part.get("behavior") != "Removed")
        for part in splitters
    )
    last = splitters[-1]["type"] if splitters else None
    plain_added = not any(
        token.get("lstrip") or token.get("rstrip") or token.get("normalized")
        for token in settings.get("added_tokens") or []
        if not token.get("special")
    )
    return (
        settings["model"]["type"] == "BPE"
        and not settings.get("normalizer")
        and not settings["model"].get("unk_token")
        and not settings["model"].get("continuing_subword_prefix")
        and not settings["model"].get("end_of_word_suffix")
        and divides
        and last == "ByteLevel"
        and plain_added
        and all(character in vocabulary for character in byte_characters())
    )


def adds_prefix(settings: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text, so that it can be told from the text's own."""
    return any(True for _ in _prefixes(settings))


def without_prefix(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same tokenizer for what goes on where a text was cut: it puts no space before it."""
    rest = copy.deepcopy(dict(settings))
    for part in _prefixes(rest):
        if part["type"] == "Prepend":
            part["prepend"] = ""
        elif part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        else:
            part["add_prefix_space"] = False
    normalizer = rest.get("normalizer")
    if normalizer and normalizer["type"] == "Prepend":
        rest["normalizer"] = None
    elif normalizer and normalizer["type"] == "Sequence":
        normalizer["normalizers"] = [part for part in normalizer["normalizers"] if part["type"] != "Prepend"]
    return rest


def _prefixes(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for part in _parts(settings.get("normalizer")):
        if part["type"] == "Prepend":
            yield part
    for part in _parts(settings.get("pre_tokenizer")):
        metaspace = part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never"
        if metaspace or (part["type"] == "ByteLevel" and part.get("add_prefix_space")):
            yield part


def _parts(setting: Any) -> Iterator[dict[str, Any]]:
    """A setting's steps: itself, or those of a sequence."""
    if not setting:
        return
    if setting["type"] != "Sequence":
        yield setting
        return
    for name in ("normalizers", "pretokenizers", "decoders", "processors"):
        for step in setting.get(name) or []:
            yield from _parts(step)
