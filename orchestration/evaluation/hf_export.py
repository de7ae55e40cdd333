"""A model version as the folder that transformers opens: its published files, and the tokenizer of its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from datalake import Lake, ModelVersion
from orchestration.corpus.tokenizer_pieces import byte_characters
from orchestration.corpus.tokenizers import (
    END_OF_TEXT,
    BpeTokenizer,
    ByteTokenizer,
    TextTokenizer,
    load_tokenizer,
)
from orchestration.errors import TokenizerError
from orchestration.reports.cards import README
from trainer.hf_layout import CONFIG, read_config
from trainer.model_config import beyond_llama

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"


def write_hf_folder(
    lake: Lake,
    version: ModelVersion,
    folder: Path,
    extra: Mapping[str, bytes] | None = None,
    card: Callable[[Mapping[str, Any], bool], bytes] | None = None,
) -> tuple[list[str], list[str]]:
    """Write the folder's files and ``extra`` ones, verified; nothing of them is left there after an error.

    ``card`` makes the README.md of config.json's fields and whether there is a tokenizer.
    Returns the files' names, and a sentence on each thing that the folder cannot give: a tokenizer, or a model that a
    class of transformers computes. Published files already are in this layout; those of gigabytes go through memory in
    pieces.
    """
    text = model_text(lake, version)
    files = {**(extra or {}), CONFIG: lake.models.open_file(version, CONFIG)}
    config = read_config(files[CONFIG])
    if text.tokenizer is not None:
        config |= end_ids(text.tokenizer)  # models published before they had them get them here
        files[CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode()
        files |= tokenizer_files(text.tokenizer, config["max_position_embeddings"])
    if card is not None:
        files[README] = card(config, text.tokenizer is not None)
    written: list[Path] = []
    try:
        for name in sorted(version.files.keys() | files.keys()):
            written.append(folder / name)
            with written[-1].open("wb") as file:
                if name in files:
                    file.write(files[name])
                else:
                    lake.models.open_reader(version, name).write_to(file)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    lacking = [f"no tokenizer: {text.why_none}"] if text.why_none else []
    if own := beyond_llama(config):
        lacking.append(f"a plain state dict: no class of transformers computes {own}; README.md shows how to load it")
    return [path.name for path in written], lacking


def end_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """What ``config.json`` and ``generation_config.json`` call the end-of-text token."""
    end = tokenizer.end_of_text
    return {"bos_token_id": end, "eos_token_id": end}


@dataclass(frozen=True)
class ModelText:
    """The tokenizer behind a model, or None and a sentence that says why there is none."""

    tokenizer: TextTokenizer | None
    why_none: str = ""


def model_text(lake: Lake, version: ModelVersion) -> ModelText:
    """The one tokenizer of the text datasets that ``version`` was trained on."""
    found: dict[str, TextTokenizer] = {}
    for ref in version.datasets:
        spec = lake.datasets.manifest(ref).source.spec
        if "tokenizer" in spec:
            tokenizer = load_tokenizer(lake.store, spec)
            found[json.dumps(tokenizer.describe(), sort_keys=True)] = tokenizer
    if len(found) == 1:
        return ModelText(next(iter(found.values())))
    trained_on = ", ".join(version.datasets) or "no recorded dataset"
    if found:
        return ModelText(None, f"{version.ref} was trained on text of {len(found)} tokenizers ({trained_on})")
    return ModelText(None, f"{version.ref} was trained on {trained_on}, which no tokenizer of ours made")


def tokenizer_files(tokenizer: TextTokenizer, max_length: int) -> dict[str, bytes]:
    """``tokenizer.json``, ``tokenizer_config.json`` and ``generation_config.json``, which ends at the end of text.

    Any text gets the ids that it has in our corpora; so text that spells out the end-of-text token is split like any
    other (``split_special_tokens``). In our rows a text begins after the end of the one before, so the end-of-text
    token also stands for the beginning, and for padding. ``max_length`` in tokens. Raises TokenizerError for a
    tokenizer of a kind that this layout does not know.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.end_token,
        "add_bos_token": False,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    return {
        TOKENIZER: _tokenizer_json(tokenizer),
        TOKENIZER_CONFIG: json.dumps(config, indent=2).encode(),
        GENERATION_CONFIG: json.dumps({**end_ids(tokenizer), "pad_token_id": tokenizer.end_of_text}, indent=2).encode(),
    }


def _tokenizer_json(tokenizer: TextTokenizer) -> bytes:
    if isinstance(tokenizer, BpeTokenizer):
        return tokenizer.json_bytes
    if isinstance(tokenizer, ByteTokenizer):
        return _bytes_as_bpe().to_str().encode()
    raise TokenizerError(
        f"tokenizer = {tokenizer.describe()['tokenizer']!r}: only 'bytes' and 'bpe:N' can be written for transformers; "
        "export the weights alone"
    )


def _bytes_as_bpe() -> Tokenizer:
    """Token = byte value, as a byte-level BPE that merges nothing."""
    tokenizer = Tokenizer(models.BPE(vocab={piece: value for value, piece in enumerate(byte_characters())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
