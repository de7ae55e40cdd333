"""Which document each token of a row belongs to, so that attention can stay within it.

The token that ends a text also begins the next one (`hf_layout` names it so, too): it belongs to the document after it.
A row is then trained on as its documents would be one by one, each with that token before it: the first token of a
document is predicted from that token alone, and the end of a document from the document. What a row begins with, the
rest of a document that another row began, is a document of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from datalake import Manifest
from trainer.config import TrainConfig
from trainer.data import TrainDataset
from trainer.errors import ConfigError

if TYPE_CHECKING:  # inputs are opened without PyTorch
    import torch
    from torch import Tensor


class DocumentNumbers:
    """Documents of batches of a mixture; ``ends`` has the token that ends a text for each source, None for one whose
    rows are a document each."""

    def __init__(self, ends: Sequence[int | None], device: torch.device) -> None:
        import torch

        # No token is -1: rows without ends count none.
        self._ends_S = torch.tensor([-1 if end is None else end for end in ends], device=device)

    def of(self, tokens_BT: Tensor, rows_B2: np.ndarray) -> Tensor:
        """The number of each token's document within its row: int64 [B, T], for tokens int64 [B, T] of these (source,
        row) pairs."""
        import torch

        ends_B = self._ends_S[torch.from_numpy(rows_B2[:, 0].copy()).to(self._ends_S.device)]
        return numbered(tokens_BT, ends_B[:, None])


def numbered(tokens_BT: Tensor, end: Tensor | int) -> Tensor:
    """The number of each token's document within its row, from 0: int64 [B, T]."""
    return (tokens_BT == end).cumsum(dim=1)


def document_ends(config: TrainConfig, datasets: Sequence[TrainDataset]) -> list[int | None] | None:
    """The token that ends a document in each of ``datasets`` (of the run's data or evaluation), None for rows that are
    one; None in all where attention is not by document.

    ConfigError where a text dataset does not say, or says of a token that it may stand within a document.
    """
    if config.model.attention == "causal":
        return None
    given = {item.dataset: item.end_of_text for item in config.data if item.end_of_text is not None}
    return [_end(dataset, given) for dataset in datasets]


def _end(dataset: TrainDataset, given: Mapping[str, int]) -> int | None:
    manifest = dataset.manifest
    if dataset.ref in given:
        return given[dataset.ref]
    if (end := end_of_documents(manifest)) is not None or manifest.kind == "synthetic":
        return end
    if len(said := set(given.values())) == 1:  # for held-out data, which the config names by reference alone
        return said.pop()
    spec = manifest.source.spec
    why = (
        "its documents hold the token that ends a text, as conversations do"
        if spec.get("special_tokens_in_text")
        else "not every document of the files that it was made of ended with the token that ends a text"
        if spec.get("documents_unmarked")
        else "it was made without a tokenizer that names the token that ends a text"
    )
    raise ConfigError(
        f"model.attention = 'document': dataset {dataset.ref} does not show where documents end ({why}); give "
        "end_of_text, a token id, with it in [[data]], or use attention = 'causal'"
    )


def end_of_documents(manifest: Manifest) -> int | None:
    """The token that ends a document wherever it stands in the dataset's rows; None where there is none known."""
    spec = manifest.source.spec
    if manifest.kind == "synthetic" or spec.get("special_tokens_in_text") or spec.get("documents_unmarked"):
        return None
    end = spec.get("end_of_text")
    return end if isinstance(end, int) else None
