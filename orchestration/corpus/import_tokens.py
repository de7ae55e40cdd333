"""Tokens from elsewhere and the tokenizer that made them, so that the lake can turn them into text again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datalake import DatasetVersion, Lake
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from orchestration.corpus.tokenizer_files import read_tokenizer
from orchestration.errors import TokenizerError


def import_tokens(
    lake: Lake,
    name: str,
    files: Sequence[Path],
    options: ImportOptions,
    tokenizer: Path | None = None,
    message: str = "",
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> DatasetVersion:
    """`import_files`, and with a ``tokenizer`` file (see `tokenizer_files`) its vocabulary, bytes per token and JSON.

    Raises TokenizerError, also for a vocabulary size other than the tokenizer's, and what `import_files` raises.
    """
    if tokenizer is None:
        return import_files(lake, name, files, options, message, progress)
    text = read_tokenizer(tokenizer)
    if options.vocab_size not in (None, text.vocab_size):
        raise TokenizerError(
            f"vocab_size = {options.vocab_size}, but {tokenizer} has {text.vocab_size} tokens: leave vocab_size out"
        )
    # Before the dataset that names it: a tokenizer that nothing names is garbage, a name without one is damage.
    lake.store.put_if_absent(text.key, text.json_bytes)
    known = replace(options, vocab_size=text.vocab_size, token_bytes=text.token_bytes, tokenizer=text.describe())
    return import_files(lake, name, files, known, message, progress)
