"""Tokenizers that a user brings: a ``tokenizer.json``, the folder of a published one, or a ``*.tiktoken`` file.

What the lake keeps is one format, the `tokenizers` library's JSON, whichever came in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.regular_files import read_bounded
from orchestration.console.foreign import shown
from orchestration.corpus.chat import ChatTemplate
from orchestration.corpus.tiktoken_files import from_ranks
from orchestration.corpus.tokenizer_check import check_tokenizer
from orchestration.corpus.tokenizers import END_OF_TEXT, BpeTokenizer
from orchestration.errors import CorpusError, TokenizerError

# What published tokenizers call the token that ends a document.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
_MAX_BYTES = 512 << 20


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's JSON and what stands beside it: the token that ends a text, others by their names (``bos_token``),
    and the chat template."""

    path: Path
    json_bytes: bytes
    tokens: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None


def is_tokenizer_path(tokenizer: str) -> bool:
    """Whether it names a file or folder, and not a tokenizer of ours."""
    return tokenizer.endswith((".json", ".tiktoken")) or "/" in tokenizer or Path(tokenizer).is_dir()


def read_tokenizer(
    path: Path, end_of_text: str | None = None, *, split_pattern: str | None = None, lossy: bool = False
) -> BpeTokenizer:
    """The tokenizer in a file or folder, tried on texts of every sort.

    ``end_of_text`` names the token that ends a document where it has an unusual name; it must be declared special,
    since a document could spell out any other. ``split_pattern`` is of a ``*.tiktoken`` file (see `tiktoken_files`).
    A tokenizer that loses text is refused unless ``lossy``. Raises TokenizerError.
    """
    return made_tokenizer(open_tokenizer(path, split_pattern), end_of_text, lossy=lossy)


def made_tokenizer(files: TokenizerFiles, end_of_text: str | None = None, *, lossy: bool = False) -> BpeTokenizer:
    """`read_tokenizer` of files that were opened."""
    try:
        settings = json.loads(files.json_bytes)
        if "vocab" not in settings["model"]:
            raise ValueError("its model has no vocabulary")
        json_bytes = _bare(settings)
        entries = {entry["content"]: entry for entry in settings.get("added_tokens") or []}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise _no_tokenizer(files.path, f"{type(error).__name__}: {error}") from error
    special = {content: entry["id"] for content, entry in entries.items() if entry.get("special")}
    end = _end_of_text(files, special, end_of_text)
    check_tokenizer(files.path, json_bytes, special[end], lossy=lossy)
    return BpeTokenizer(json_bytes, "file", special[end])


def _no_tokenizer(path: Path, problem: str) -> TokenizerError:
    return TokenizerError(
        f"tokenizer: {shown(path)} is no tokenizer of the `tokenizers` library ({shown(problem)}); "
        "give its tokenizer.json"
    )


def _end_of_text(files: TokenizerFiles, special: Mapping[str, int], wanted: str | None) -> str:
    declared = files.tokens.get("eos_token")
    candidates = [wanted] if wanted is not None else [*([declared] if declared else []), *_ENDS]
    found = next((end for end in candidates if end in special), None)
    if found is None:
        named = shown(wanted) if wanted is not None else " or ".join(_ENDS)
        raise TokenizerError(
            f"end_of_text: {shown(files.path)} has no token {named} that is declared special, and a document could "
            "hold any other; name the token that ends a document"
        )
    return found


def open_tokenizer(path: Path, split_pattern: str | None = None) -> TokenizerFiles:
    """The files of a tokenizer, unchecked. Raises TokenizerError."""
    if not path.is_dir():
        content = _content(path)
        return TokenizerFiles(path, from_ranks(path, content, split_pattern) if _is_ranks(path) else content)
    ranks = sorted(path.glob("*.tiktoken"))
    if (path / "tokenizer.json").exists():
        content = _content(path / "tokenizer.json")
    elif len(ranks) == 1:
        content = from_ranks(ranks[0], _content(ranks[0]), split_pattern)
    else:
        raise TokenizerError(
            f"tokenizer: {shown(path)} holds no tokenizer.json; save the tokenizer with transformers as a fast one, "
            "and give that folder"
        )
    config = _json_object(path / "tokenizer_config.json")
    named = {key: _token(value) for key, value in config.items() if key.endswith("_token")}
    return TokenizerFiles(path, content, {key: token for key, token in named.items() if token}, _template(path, config))


def _is_ranks(path: Path) -> bool:
    return path.suffix == ".tiktoken"


def _content(path: Path) -> bytes:
    try:
        content = read_bounded(path, _MAX_BYTES)
    except OSError as error:
        raise TokenizerError(
            f"tokenizer: {shown(path)} cannot be read ({error.strerror}); give a *.json or *.tiktoken file or a folder"
        ) from error
    if content is None:
        raise TokenizerError(f"tokenizer: {shown(path)} is larger than {_MAX_BYTES >> 20} MiB; give a tokenizer's file")
    return content


def _json_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer: {shown(path)} is not JSON ({shown(error)}); mend the file") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"tokenizer: {shown(path)} is no JSON object; mend the file")
    return value


def _token(value: Any) -> str | None:
    """A token's text, which is written alone or with its properties."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"
    if beside.exists():
        return _content(beside).decode(errors="replace")
    found = config.get("chat_template")
    if isinstance(found, list):
        by_name = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = by_name.get("default")
    return found if isinstance(found, str) else None


def chat_template(given: Path | None, files: TokenizerFiles | None, tokenizer: BpeTokenizer | None) -> ChatTemplate:
    """The template that conversations are rendered by: a file's, or else the tokenizer's own. Raises CorpusError."""
    source = files.template if files else None
    if given is not None:
        try:
            source = _content(given).decode()
        except (TokenizerError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"chat_template: {shown(given)} cannot be read; give a file with a Jinja template"
            ) from error
    if source is None:
        raise CorpusError(
            "chat_template: messages are rendered by one, and the tokenizer brings none; "
            "give a file with a Jinja template"
        )
    return ChatTemplate(source, files.tokens if files else {}, tokenizer.special_tokens if tokenizer else ())


def _bare(settings: Mapping[str, Any]) -> bytes:
    """Without what would add, cut or pad tokens: documents are framed and cut by us."""
    bare = {**settings, "post_processor": None, "truncation": None, "padding": None}
    return json.dumps(bare, ensure_ascii=False, separators=(",", ":")).encode()
