"""Tokens from chunks that Lightning's litdata wrote for its `TokensLoader`: every item is a document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datalake.errors import ImportRefusedError
from datalake.maintenance.export_layouts import LITDATA_NUMPY, LITDATA_TENSOR, litdata_head_bytes
from datalake.maintenance.import_options import ImportOptions, Piece
from datalake.shards.tokens import MAX_VOCABULARY, WIDE

_AT_ONCE = 1 << 20  # tokens
_KINDS = {"no_header_numpy": LITDATA_NUMPY, "no_header_tensor": LITDATA_TENSOR}


def litdata_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """The items of the chunks that ``index.json`` lists, in its order."""
    del options  # the index says it all
    try:
        index = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ImportRefusedError(f"{path} is nested too deep: give the folder that litdata wrote") from error
    chunks, config = (index.get("chunks"), index.get("config")) if isinstance(index, dict) else (None, None)
    if not isinstance(chunks, list) or not isinstance(config, dict):
        raise ImportRefusedError(f"{path} lists no chunks: give the folder that litdata wrote")
    dtype = _type_of(path, config)
    for chunk in chunks:
        name = chunk.get("filename") if isinstance(chunk, dict) else None
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise ImportRefusedError(f"{path}: its chunks are to lie beside it: give the folder that litdata wrote")
        yield from _items(path.with_name(name), dtype, chunk.get("dim"))


def _type_of(path: Path, config: Mapping[str, Any]) -> np.dtype:
    """What a token is; refuses what is compressed, encrypted or no plain tokens."""
    for field in ("compression", "encryption"):
        if config.get(field):
            raise ImportRefusedError(
                f"{path}: its chunks have {field} = {str(config[field])[:80]!r}: write them without, as for a "
                "TokensLoader"
            )
    said = config.get("data_format")
    kind, _, number = str(said[0] if isinstance(said, list) and len(said) == 1 else said).partition(":")
    dtype = _KINDS.get(kind, {}).get(int(number)) if number.isascii() and number.isdigit() else None
    if dtype is None:
        raise ImportRefusedError(
            f"{path}: its items are {str(said)[:80]}: give chunks of integers, one array or tensor an item, as litdata "
            "writes them for a TokensLoader"
        )
    return np.dtype(dtype)


def _items(path: Path, dtype: np.dtype, claimed: object) -> Iterator[Piece]:
    """The tokens of one chunk, of which the index claims so many; nothing is believed before it fits the file."""
    if not path.is_file():
        raise ImportRefusedError(f"{path} is missing, or no regular file: give the whole folder that litdata wrote")
    size = path.stat().st_size
    with path.open("rb") as file:
        count = int(np.fromfile(file, "<u4", 1)[0]) if size >= 4 else 0
        start = litdata_head_bytes(count)
        if not count or start > size:
            raise ImportRefusedError(f"{path}: {size:,} bytes cannot hold {count:,} items: it is not whole")
        offsets = np.fromfile(file, "<u4", count + 1).astype(np.int64)
        lengths = np.diff(offsets)
        if offsets[0] != start or offsets[-1] != size or (lengths < 0).any() or (lengths % dtype.itemsize).any():
            raise ImportRefusedError(
                f"{path}: its items do not lie end to end as {8 * dtype.itemsize}-bit tokens: it is damaged, or the "
                "index is that of other chunks"
            )
        ends = np.cumsum(lengths) // dtype.itemsize
        if claimed != ends[-1]:  # other item loaders put sizes before the tokens of an item, and no number here
            raise ImportRefusedError(
                f"{path} has {ends[-1]:,} tokens, and its index says {claimed!r:.40}: give chunks that were "
                "written for a TokensLoader"
            )
        file.seek(start)
        for done in range(0, max(1, int(ends[-1])), _AT_ONCE):
            tokens = np.fromfile(file, dtype, min(_AT_ONCE, int(ends[-1]) - done))
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < MAX_VOCABULARY:
                raise ImportRefusedError(
                    f"{path} has values from {tokens.min()} to {tokens.max()}: tokens are 0 to {MAX_VOCABULARY - 1}"
                )
            here = ends[(ends > (done or -1)) & (ends <= done + len(tokens))]
            yield tokens.astype(WIDE), here - done
