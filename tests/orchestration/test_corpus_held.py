"""Rows laid out while their tokens lie elsewhere: the same rows, and no more tokens kept there than rows may need."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datalake import Lake
from orchestration.corpus import packing as packing_module
from orchestration.corpus import records, rows
from orchestration.corpus.add import add_corpus
from orchestration.corpus.held import PLACE, HeldGroups


class Backwards:
    """A cluster of this process: functions and items are sent as Ray sends them, and what is asked for last is written
    first."""

    def __call__(self, function: Any, items: Iterable[Any]) -> Iterator[Any]:
        return (_sent(function)(_sent(item)) for item in items)

    held = __call__

    def with_held(self, function: Any, items: Iterable[tuple[Any, Sequence[Any]]]) -> list[Any]:
        return [_sent(function)(_sent(item), *values) for item, values in reversed(list(items))][::-1]

    def alone(self, function: Any, item: Any) -> Any:
        return _sent(function)(_sent(item))


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.mark.parametrize("packing", ["concat", "best-fit"])
@pytest.mark.parametrize("split_by", ["name", "position"])
def test_a_cluster_makes_the_same_rows(tmp_path: Path, monkeypatch, packing: str, split_by: str) -> None:
    monkeypatch.setattr(records, "PIECE", 1024)
    monkeypatch.setattr(rows, "_GROUP_BYTES", 600)
    lake, folder = Lake.open(str(tmp_path / "lake")), tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(f"{number}: " + f"grüße aus zelle {number}, " * (number % 9 + 8))
    (folder / "long.txt").write_text("".join(f"line {number} of a long text\n" for number in range(400)))
    given: dict[str, Any] = {"seq_len": 32, "heldout_fraction": 0.3, "tokenizer": "bpe:300"}
    given |= {"packing": packing, "split_by": split_by}
    here = add_corpus(lake, "here", folder, **given, shard_sequences=8)
    there = add_corpus(lake, "there", folder, **given, shard_sequences=8, cluster=Backwards())
    assert there.heldout is not None
    assert (there.train.digest, there.heldout.digest) == (here.train.digest, here.both()[1].digest)
    assert (there.tokens, there.tokens_dropped) == (here.tokens, here.tokens_dropped)
    other = add_corpus(lake, "other", folder, **given, shard_sequences=32)
    contents = [lake.datasets.manifest(made.train).content_digest for made in (here, other)]
    assert contents[0] == contents[1], "the size of a shard leaves the rows alone"
    assert other.train.digest != here.train.digest


@pytest.mark.parametrize(("packing", "most"), [("concat", 8), ("best-fit", 70)])
def test_tokens_that_no_row_needs_any_more_are_let_go(monkeypatch, packing: Any, most: int) -> None:
    monkeypatch.setattr(packing_module, "_WAITING", 64)  # pieces that best-fit keeps
    rng = np.random.default_rng(3)
    laying, held, groups, laid = rows._Laying(packing, 16, PLACE), HeldGroups(), {}, []
    for group in range(300):
        lengths = [(int(count), "closed") for count in rng.integers(1, 40, 3)]
        groups[group] = np.arange(sum(count for count, _ in lengths)) + 1000 * group
        held.keep(laying.waiting())
        for places_NT in laying.add(held.add(group, lengths), 4):
            shard, handles = held.shard(len(laid), places_NT)
            laid.extend(shard.tokens([groups[handle] for handle in handles]).tolist())
        assert len(held) <= most
    tokens = [token for row in laid for token in row]
    if packing == "concat":
        assert tokens == [token for group in groups.values() for token in group.tolist()][: len(tokens)]
    else:
        assert len(set(tokens)) == len(tokens) > 10_000
