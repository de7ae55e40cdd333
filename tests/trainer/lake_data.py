"""Small datasets in a real lake, and the tiny recipe that most tests train."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from datalake import Lake, Manifest, Source, content_digest, shard_layout, write_shard
from datalake.canonical import digest_of
from datalake.shards.roles import SPEC_FIELD, VERSION, role_column
from datalake.store.content import ContentReader
from trainer import TrainConfig, hf_layout
from trainer.model import Llama
from trainer.tensor_files import read_tensors, to_pieces

VOCAB = 32
SEQ_LEN = 24


def patterned(rows: int, seed: int = 0, length: int = SEQ_LEN, vocab: int = VOCAB) -> np.ndarray:
    """Sequences that repeat a random word of 4 tokens, uint16 [rows, length]: easy in context, not from frequencies."""
    words_B4 = np.random.Generator(np.random.Philox(seed)).integers(0, vocab, (rows, 4))
    return np.tile(words_B4, (1, -(-length // 4)))[:, :length].astype("<u2")


def add_dataset(
    lake: Lake,
    name: str,
    tokens_BT: np.ndarray,
    *,
    kind: str = "synthetic",
    vocab: int = VOCAB,
    shard: int = 8,
    byte_counts: bool = True,
    no_bytes: bool = False,
    roles_BT: np.ndarray | None = None,
    **fields: Any,
) -> str:
    """Commit ``tokens_BT`` (uint16) as a version of ``name``, with ``fields`` in its spec and ``roles_BT`` as a column,
    if there are any; returns "NAME@VERSION".

    Text is as if token i stood for i % 3 + 1 bytes, or without ``byte_counts`` as if imported without its tokenizer,
    or with ``no_bytes`` as if every token were the end of a text.
    """
    spec = {**fields, "made_by": "tests", "content": digest_of(tokens_BT.tolist()), "shape": list(tokens_BT.shape)}
    if roles_BT is not None:
        spec |= {SPEC_FIELD: VERSION, "which": digest_of(roles_BT.tolist())}
    synthetic = kind == "synthetic"
    counted = byte_counts and not synthetic
    source = Source.model_validate(
        {
            "kind": kind,
            "spec": spec,
            "spec_digest": digest_of(spec),
            "seed": 0 if synthetic else None,
            "generator": "tests" if synthetic else None,
            "shard_sequences": shard,
        }
    )
    rows, length = tokens_BT.shape
    refs = []
    for first, count in shard_layout(rows, shard):
        part = np.ascontiguousarray(tokens_BT[first : first + count])
        columns: dict[str, Any] = {
            "sequence_id": pa.array(np.arange(first, first + count)),
            "tokens": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(2 * length), count, [None, pa.py_buffer(part.tobytes())]
            ),
        }
        if counted:
            columns["target_bytes"] = pa.array((part[:, 1:] % 3 + 1).sum(axis=1) * (not no_bytes), pa.int32())
        if roles_BT is not None:
            columns["roles"] = role_column(roles_BT[first : first + count])
        refs.append(write_shard(lake.store, source, pa.table(columns), first))
    manifest = Manifest.build(
        source,
        refs,
        seq_len=length,
        vocab_size=vocab,
        content_digest=content_digest(lake.store, refs),
        text_bytes=int((tokens_BT % 3 + 1).sum()) * (not no_bytes) if counted else None,
    )
    return lake.datasets.commit(name, manifest).ref


def pair_rows(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and roles of rows of pairs as they are packed, each with another number of answers: prompts of random
    tokens, answers that repeat them, token 31 after each pair and behind the last."""
    draw = np.random.Generator(np.random.Philox(seed))
    tokens_BT = np.full((rows, SEQ_LEN), VOCAB - 1, dtype="<u2")
    roles_BT = np.zeros((rows, SEQ_LEN), dtype=np.uint8)
    for tokens_T, roles_T in zip(tokens_BT, roles_BT, strict=True):
        at, roles_T[0] = 1, 1
        for _ in range(draw.integers(1, 4)):
            prompt = draw.integers(0, 8, draw.integers(1, 4))
            answer = np.append(np.resize(prompt, draw.integers(1, 4)), VOCAB - 1)
            end = at + len(prompt) + len(answer)
            if end > SEQ_LEN:
                break
            tokens_T[at:end], roles_T[at:end] = np.append(prompt, answer), 2
            roles_T[at : at + len(prompt)] = 1
            at = end
    return tokens_BT, roles_BT


def add_pairs(lake: Lake, name: str, rows: int, seed: int = 0) -> str:
    """A dataset of ``pair_rows``."""
    tokens_BT, roles_BT = pair_rows(rows, seed)
    return add_dataset(lake, name, tokens_BT, kind="text", roles_BT=roles_BT, end_of_text=VOCAB - 1)


def tiny_lake(path: Path) -> Lake:
    """A lake with ``train@1`` (22 rows, so that epochs end inside a batch of 4) and ``held@1`` (10 rows)."""
    lake = Lake.open(str(path))
    add_dataset(lake, "train", patterned(22))
    add_dataset(lake, "held", patterned(10, seed=1))
    return lake


def tiny_config(**changes: Any) -> TrainConfig:
    """14 steps of 4 rows: two and a half epochs of ``train@1``, every step logged."""
    return TrainConfig.model_validate(
        {
            "model": {"depth": 2, "dim": 16, "heads": 2},
            "data": [{"dataset": "train@1"}],
            "eval": ["held@1"],
            "steps": 14,
            "batch_sequences": 4,
            "optimizer": {"lr": 1e-2},
            "schedule": {"warmup_steps": 2},
            "precision": "fp32",
            "checkpoint_every": 3,
            "eval_every": 5,
            "log_every": 1,
            **changes,
        }
    )


def machine() -> dict[str, str]:
    """What decides the last bits of a float32 sum."""
    return {
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name")),
    }


def curve(records: list[dict[str, Any]]) -> list[tuple[int, float, float, float]]:
    """What must repeat to the bit: (step, loss, lr, grad_norm) of each step record."""
    return [(row["step"], row["loss"], row["lr"], row["grad_norm"]) for row in records if "loss" in row]


def eval_curve(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluation records."""
    return [row for row in records if "eval" in row]


def hf_files(model: Llama, limit: int = 1 << 30) -> dict[str, bytes]:
    """The files that ``model`` would be published as, for sequences of 64 tokens."""
    tensors = hf_layout.hf_tensors(model)
    placed, index = hf_layout.layout(tensors, limit)
    files = {
        name: bytes(to_pieces({member: tensors[member] for member in members}, metadata={"format": "pt"}))
        for name, members in placed.items()
    }
    files[hf_layout.CONFIG] = hf_layout.config_file(model.shape, 64)
    return files | ({hf_layout.INDEX: index} if index else {})


def open_files(config: bytes, *weights: bytes) -> Llama:
    """The model in such files."""
    readers = (ContentReader.of_bytes(data, "weights") for data in weights)
    return hf_layout.open_model(config, chain.from_iterable(read_tensors(reader) for reader in readers))
