"""Rows for others' training loops equal those of `generate`, in any order, process and restart."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

import morphogen
from datalake import Lake
from generator import generate_batch, parse_spec
from tests.trainer.lake_data import SEQ_LEN, add_dataset, patterned
from trainer.data import TrainDataset, local_batches
from trainer.errors import ConfigError, PlanMismatchError

SPEC = {
    "family": "nca", "grid": [6, 6], "colors": 3, "embed": 2, "hidden": 4, "burn_in": 2, "seq_len": 64,
    "band": {"score": "gzip-int32-v1-normalized", "low": 0.1, "high": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    """Rows 0 … 39 of SPEC at seed 5, as `generate` stores them: uint16 [40, 64]."""
    table = generate_batch(parse_spec(SPEC), 5, 0, 40, threads=1)
    return np.stack([np.frombuffer(row.as_py(), dtype="<u2") for row in table["tokens"]])


def rows(**options):
    return morphogen.NcaDataset(SPEC, seed=5, sequences=40, **options)


def test_rows_are_those_of_generate_in_any_order(stored):
    data = rows()
    order = [7, 0, 39, 7, 12]
    assert len(data) == 40
    assert np.array_equal(torch.stack(data.__getitems__(order)).numpy(), stored[order])
    assert np.array_equal(data[-1].numpy(), stored[39])
    assert data[3].dtype == torch.int64
    assert rows(dtype=torch.int32)[3].dtype == torch.int32


def test_indices_are_as_python_has_them():
    data = rows()
    for index in (40, -41, 10**30):
        with pytest.raises(IndexError):
            data[index]
    for index in (1.0, "1", None):
        with pytest.raises(TypeError):
            data[index]
    assert torch.equal(data[np.int64(2)], data[2])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_either_kind_give_the_same_rows(context, stored):
    forked = context == "fork"  # each that is not imports torch
    loader = DataLoader(
        rows(),
        batch_size=8,
        num_workers=2 if forked else 1,
        multiprocessing_context=context,
        persistent_workers=forked,
    )
    for _ in range(2 if forked else 1):
        assert np.array_equal(torch.cat(list(loader)).numpy(), stored)


def test_a_distributed_sampler_deals_every_row_once(stored):
    data = rows()
    found = [
        torch.cat(list(DataLoader(data, batch_size=5, sampler=DistributedSampler(data, 2, rank, shuffle=False))))
        for rank in range(2)
    ]
    assert np.array_equal(torch.stack(found, dim=1).flatten(0, 1).numpy(), stored)


def test_labels_are_the_next_tokens_and_the_mask_leaves_out_the_first_frame(stored):
    frame = 11  # 9 patches and two delimiters
    shifted = rows(labels="shifted", loss_mask="first_frame")[2]
    assert np.array_equal(shifted["input_ids"].numpy(), stored[2, :-1])
    assert (shifted["labels"][: frame - 1] == -100).all()
    assert np.array_equal(shifted["labels"][frame - 1 :].numpy(), stored[2, frame:])
    same = rows(labels="same", loss_mask="first_frame")[2]
    assert np.array_equal(same["input_ids"].numpy(), stored[2])
    assert torch.equal(same["labels"][1:], shifted["labels"])
    assert same["labels"][0] == -100


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"sequences": 0}, "sequences = 0"),
        ({"sequences": 1.5}, "sequences = 1.5"),
        ({"sequences": 1, "dtype": torch.float32}, "dtype"),
        ({"sequences": 1, "labels": "next"}, "labels = 'next'"),
        ({"sequences": 1, "loss_mask": "first_frame"}, "loss_mask"),
        ({"sequences": 1, "loss_mask": "all", "labels": "same"}, "loss_mask = 'all'"),
    ],
)
def test_bad_arguments_are_named(options, names):
    with pytest.raises(ConfigError, match=names):
        morphogen.NcaDataset(SPEC, **options)


def test_a_spec_that_is_neither_preset_nor_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no-such\.toml"):
        morphogen.NcaDataset(tmp_path / "no-such.toml", sequences=1)
    broken = tmp_path / "broken.toml"
    broken.write_text("family = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        morphogen.NcaDataset(broken, sequences=1)
    for text in ("colors = " + "9" * 5000, "colors = " + "[" * 5000 + "]" * 5000):
        broken.write_text(text)
        with pytest.raises(ConfigError, match=r"broken\.toml"):
            morphogen.NcaDataset(broken, sequences=1)
    assert morphogen.NcaDataset("tiny", sequences=1)[0].shape == (morphogen.load_preset("tiny").seq_len,)


@pytest.fixture
def lake(tmp_path) -> Lake:
    opened = Lake.open(str(tmp_path / "lake"))
    add_dataset(opened, "text", patterned(300))
    return opened


def test_a_lake_s_rows_survive_pickling_and_forking(lake):
    data = morphogen.LakeDataset(lake.uri, "text")
    expected = torch.from_numpy(patterned(300).astype(np.int64))
    assert torch.equal(torch.cat(list(DataLoader(data, batch_size=64))), expected)  # the parent's reader is open now
    assert torch.equal(torch.cat(list(DataLoader(data, batch_size=64, num_workers=2))), expected)
    assert torch.equal(pickle.loads(pickle.dumps(data))[17], expected[17])  # noqa: S301
    assert data.ref == "text@1"


def test_the_plan_loader_gives_what_training_reads_and_goes_on_at_every_step(lake):
    data = morphogen.LakeDataset(lake.uri, "text")
    loader = morphogen.plan_loader(data, batch=12, seed=3, world=3, rank=1, steps=40)
    version = lake.datasets.get("text")
    trained = TrainDataset(version.ref, lake.datasets.manifest(version), lake.store)
    expected = [batch.tokens.astype(np.int64) for batch in local_batches(loader.plan, 0, 40, 3, 1, [trained])]
    for stop in (0, 1, 17, 39, 40):
        first = morphogen.plan_loader(data, batch=12, seed=3, world=3, rank=1, steps=40)
        found = []
        for batch in first if stop else []:
            found.append(batch)
            if len(found) == stop:
                state = first.state_dict()
                break
        else:
            state = first.state_dict()
        again = morphogen.plan_loader(data, batch=12, seed=3, world=3, rank=1, steps=40)
        again.load_state_dict(state)
        found += list(again)
        assert len(found) == 40
        assert all(np.array_equal(a.numpy(), b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(PlanMismatchError, match="is of plan"):
        morphogen.plan_loader(data, batch=13, seed=3).load_state_dict(loader.state_dict())


def test_ranks_together_make_the_global_batch_of_a_mixture(lake):
    computed = morphogen.NcaDataset({**SPEC, "seq_len": SEQ_LEN}, sequences=50)
    text = morphogen.LakeDataset(lake.uri, "text")
    mixed = {"batch": 10, "seed": 1, "weights": [0.3, 0.7]}
    whole = morphogen.plan_loader([computed, text], **mixed)
    parts = [morphogen.plan_loader([computed, text], **mixed, rank=rank, world=4) for rank in range(4)]
    for step in (0, 5, 61):
        assert torch.equal(torch.cat([part.batch(step) for part in parts]), whole.batch(step))
    with pytest.raises(ConfigError, match="weights"):
        morphogen.plan_loader([computed, text], batch=10, weights=[1.0])
    with pytest.raises(ConfigError, match="rank = 4"):
        morphogen.plan_loader(text, batch=10, rank=4, world=4)
