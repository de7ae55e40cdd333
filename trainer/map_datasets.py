"""Rows for anybody's training loop: map-style datasets for ``torch.utils.data``, computed on the fly or from a lake.

Row ``i`` is sequence ``i``, whoever asks and in whatever order, so samplers, workers and restarts change nothing. Each
process opens its own reader: the objects may be pickled (spawn) or inherited (fork).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datalake import Lake, Manifest, Repairer, RowReader, digest_of
from datalake.lake import ModelFiles
from datalake.reading.computed import check_generator
from generator import (
    GENERATOR_VERSION,
    GenerationSpec,
    SpecGenerator,
    generate_rows,
    list_presets,
    load_preset,
    parse_spec,
)
from generator.errors import TomlError
from generator.toml_files import read_toml
from trainer.errors import ConfigError
from trainer.mask import LossMask, counted_targets, least_role, mask_applies, spec_of

Labels = Literal["shifted", "same"]
_NUMPY: dict[torch.dtype, type[np.integer]] = {torch.int64: np.int64, torch.int32: np.int32, torch.uint16: np.uint16}
Sample = Tensor | dict[str, Tensor]

IGNORED = -100
"""The label of a prediction that does not count: what ``torch.nn.functional.cross_entropy`` ignores by default."""


class RowDataset(Dataset[Sample]):
    """What the two datasets share: indices as Python has them, and rows as tensors with or without labels.

    ``labels`` None: a sample is its tokens, ``dtype`` [seq_len]. "shifted": a dict of ``input_ids`` and ``labels``,
    both [seq_len - 1], the label of a position being the next token. "same": both [seq_len], unshifted, as Hugging
    Face models take them. Labels are int64; those that ``loss_mask`` leaves out (``mask.counted_targets``) are -100. So
    are those of padding, and with "answers" of prompts, where the rows of a lake say what tokens are for.
    """

    seq_len: int
    vocab_size: int

    def __init__(
        self,
        rows: int,
        *,
        spec: Mapping[str, Any],
        dtype: torch.dtype,
        labels: Labels | None,
        loss_mask: LossMask,
        least_role: int | None = None,
    ) -> None:
        if dtype not in _NUMPY:
            raise ConfigError(f"dtype = {dtype}: allowed are torch.int64, torch.int32 and torch.uint16; choose one")
        if labels not in (None, "shifted", "same"):
            raise ConfigError(f"labels = {labels!r}: allowed are None, 'shifted' and 'same'; choose one")
        if loss_mask not in get_args(LossMask):
            raise ConfigError(f"loss_mask = {loss_mask!r}: allowed are {', '.join(get_args(LossMask))}; choose one")
        if not mask_applies(spec, loss_mask) and (least_role is None or loss_mask != "answers"):
            why = "these sequences are of no task" if loss_mask == "answers" else "these sequences show no frames"
            raise ConfigError(f"loss_mask = {loss_mask!r}: {why}; leave it out, or set labels")
        if loss_mask != "none" and labels is None:
            raise ConfigError(f"loss_mask = {loss_mask!r}: a mask shows in labels alone; leave it out, or set labels")
        if dtype == torch.uint16 and self.vocab_size > 1 << 16:
            raise ConfigError(
                f"dtype = {dtype}: a vocabulary of {self.vocab_size:,} tokens does not fit; use int32 or int64"
            )
        self._rows = rows
        self._dtype = dtype
        self._labels = labels
        self._ignored_T = torch.from_numpy(~counted_targets(spec, self.seq_len, loss_mask))
        self._least_role = least_role

    def tokens(self, indices_N: np.ndarray) -> np.ndarray:
        """Tokens of rows ``indices_N`` (int64 [N], within range): unsigned integers [N, seq_len]."""
        raise NotImplementedError

    def _tokens_as(self, indices_N: np.ndarray, dtype: type[np.integer]) -> np.ndarray:
        """The same as ``dtype``, which holds every token."""
        return self.tokens(indices_N).astype(dtype, copy=False)

    @property
    def identity(self) -> str:
        """SHA-256 over what fixes the rows; equal identities, equal rows."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> Sample:
        """Row ``index``; negative ones count from the end. Raises IndexError, and TypeError for what is no integer."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Rows ``indices``, made in one call: what ``DataLoader`` asks for a batch."""
        indices_N = self._checked(indices)
        tokens_NT = torch.from_numpy(self._tokens_as(indices_N, _NUMPY[self._dtype]))
        if self._labels is None or self._least_role is None:
            return [self._sample(tokens_T, self._ignored_T) for tokens_T in tokens_NT]
        ignored_NT = torch.from_numpy(self._roles(indices_N)[:, 1:] < self._least_role)
        return [self._sample(*row) for row in zip(tokens_NT, ignored_NT, strict=True)]

    def _roles(self, indices_N: np.ndarray) -> np.ndarray:
        """What each token of these rows is for, where rows say so: uint8 [N, seq_len]."""
        raise NotImplementedError

    def _checked(self, indices: Sequence[int]) -> np.ndarray:
        whole = [operator.index(index) for index in indices]
        for index in whole:
            if not -self._rows <= index < self._rows:
                raise IndexError(f"row {index} of a dataset of {self._rows}")
        return np.array([index % self._rows for index in whole], dtype=np.int64)

    def _sample(self, tokens_T: Tensor, ignored_T: Tensor) -> Sample:
        if self._labels is None:
            return tokens_T
        labels_T = tokens_T[1:].to(torch.int64).masked_fill(ignored_T, IGNORED)
        if self._labels == "shifted":
            return {"input_ids": tokens_T[:-1], "labels": labels_T}
        return {"input_ids": tokens_T, "labels": torch.cat([labels_T.new_tensor([IGNORED]), labels_T])}


class NcaDataset(RowDataset):
    """Sequences 0 … ``sequences`` - 1 of a spec, computed where they are read: no lake, no Ray, no files.

    ``spec`` is a spec, a preset's name, the path of a TOML file or a mapping of fields. Rows equal those of `morphogen
    generate` with the same spec and seed, to the byte. ``backend`` is as in ``generator.generate_batch``.

    Raises ConfigError, and what the generator raises for a bad spec, seed or backend.
    """

    def __init__(
        self,
        spec: GenerationSpec | Mapping[str, Any] | str | Path,
        *,
        sequences: int,
        seed: int = 0,
        dtype: torch.dtype = torch.int64,
        labels: Labels | None = None,
        loss_mask: LossMask = "none",
        backend: str = "auto",
    ) -> None:
        if not isinstance(sequences, SupportsIndex) or not 1 <= operator.index(sequences) < 1 << 63:
            raise ConfigError(f"sequences = {sequences!r}: allowed is a whole number from 1 to 2**63 - 1; change it")
        self.spec = _spec(spec)
        self.seed = seed
        self.backend = backend
        self.seq_len, self.vocab_size = self.spec.seq_len, self.spec.vocab_size
        fields = self.spec.model_dump(mode="json")
        super().__init__(operator.index(sequences), spec=fields, dtype=dtype, labels=labels, loss_mask=loss_mask)

    def tokens(self, indices_N: np.ndarray) -> np.ndarray:
        return generate_rows(self.spec, self.seed, indices_N, backend=self.backend)

    @property
    def identity(self) -> str:
        return digest_of(
            {
                "spec": self.spec.digest,
                "seed": self.seed,
                "generator": GENERATOR_VERSION,
                "sequences": len(self),
            }
        )


class LakeDataset(RowDataset):
    """The rows of dataset ``ref`` (NAME, NAME@V or NAME@ALIAS) of the lake at ``uri``, verified as they are fetched.

    On S3 they are read through the node's disk cache (``MORPHOGEN_CACHE``); those of a computed dataset are made here.
    The reference is resolved when the object is made: later versions change nothing.

    Raises ConfigError, and what the lake raises for a bad address, reference or shard, or another generator's rows.
    """

    def __init__(
        self,
        uri: str,
        ref: str,
        *,
        dtype: torch.dtype = torch.int64,
        labels: Labels | None = None,
        loss_mask: LossMask = "none",
    ) -> None:
        lake = Lake.open(uri)
        version = lake.datasets.usable(ref)
        self.uri, self.ref = lake.uri, version.ref
        self.manifest: Manifest = lake.datasets.manifest(version)
        check_generator(self.manifest, version.ref, SpecGenerator())
        self.seq_len, self.vocab_size = self.manifest.seq_len, self.manifest.vocab_size
        rows, spec = self.manifest.sequences, spec_of(self.manifest)
        least = least_role(self.manifest, loss_mask)
        super().__init__(rows, spec=spec, dtype=dtype, labels=labels, loss_mask=loss_mask, least_role=least)
        self._reader: tuple[int, RowReader] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def tokens(self, indices_N: np.ndarray) -> np.ndarray:
        return self._here().rows(indices_N)

    def _tokens_as(self, indices_N: np.ndarray, dtype: type[np.integer]) -> np.ndarray:
        return self._here().rows(indices_N, np.empty((len(indices_N), self.seq_len), dtype=dtype))

    def _roles(self, indices_N: np.ndarray) -> np.ndarray:
        return self._here().roles(indices_N)

    def _here(self) -> RowReader:
        """This process's reader: a forked one must not share its parent's connections and locks."""
        if self._reader is None or self._reader[0] != os.getpid():
            store = Lake.open(self.uri).store
            self._reader = (os.getpid(), Repairer().reader(store, self.manifest, SpecGenerator(ModelFiles(self.uri))))
        return self._reader[1]

    @property
    def identity(self) -> str:
        return self.manifest.identity


def _spec(spec: GenerationSpec | Mapping[str, Any] | str | Path) -> GenerationSpec:
    """The spec meant: itself, or parsed from a mapping, a preset's name or a TOML file."""
    if isinstance(spec, Mapping):
        return parse_spec(spec)
    if isinstance(spec, str) and spec in list_presets():
        return load_preset(spec)
    if isinstance(spec, str | Path):
        try:
            return parse_spec(read_toml(Path(spec)))
        except TomlError as error:
            raise ConfigError(f"spec: {error} (presets are {', '.join(list_presets())})") from error
    return spec
