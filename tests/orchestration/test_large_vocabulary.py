"""A vocabulary of 151,936 tokens, as Qwen's: text in, trained, stopped, resumed, published, evaluated, exported."""

from __future__ import annotations

import json
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode

from datalake import DatasetReader, Lake, Repairer
from orchestration.cli import main
from orchestration.corpus.add import add_corpus
from orchestration.corpus.tokenizer_pieces import byte_characters
from orchestration.corpus.tokenizers import load_tokenizer
from orchestration.live.stream import FedRows
from orchestration.training.step_rows import load_steps
from tests.trainer.lake_data import curve, open_files, tiny_config
from trainer import Llama, TrainJob, hf_layout, load_metrics, run_training
from trainer.config import ModelConfig
from trainer.errors import ConfigError
from trainer.inputs import open_inputs
from trainer.loss import CHUNK_LOGITS, token_scores
from trainer.map_datasets import LakeDataset
from trainer.plan_loader import plan_loader

VOCAB = 151_936


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """``wide@1``: bytes have the highest ids, so that all its tokens need four bytes; ``narrow@1``: the same text."""
    folder = tmp_path_factory.mktemp("large")
    pieces = map("".join, product(byte_characters(), repeat=3))
    unused = [next(pieces) for _ in range(VOCAB - 257)]
    ids = {piece: number for number, piece in enumerate([*unused, *byte_characters()])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "text").mkdir()
    for number in range(24):
        (folder / "text" / f"{number}.txt").write_text(f"{number} größe say 1 2 3 4\n" * 6)
    lake = Lake.open(str(folder / "lake"))
    add = {"seq_len": 32, "heldout_fraction": 0.3}
    add_corpus(lake, "wide", folder / "text", tokenizer=str(folder / "tokenizer.json"), **add)
    add_corpus(lake, "narrow", folder / "text", **add)
    return lake


def config(**changes: Any):
    model = {"depth": 1, "layers": 1, "dim": 8, "heads": 1, "ffn": 8}
    fields = {"model": model, "data": [{"dataset": "wide@1"}], "eval": ["wide-heldout@1"], "publish": "large"}
    given = {
        "steps": 3,
        "batch_sequences": 2,
        "schedule": {},
        "checkpoint_every": 1,
        "eval_sequences": 4,
        "eval_every": 3,
    }
    return tiny_config(**fields, **given, **changes)


def test_it_trains_resumes_publishes_exports_and_evaluates(lake: Lake, tmp_path: Path, capsys) -> None:
    manifest = lake.datasets.manifest("wide@1")
    assert (manifest.vocab_size, manifest.token_dtype) == (VOCAB, np.dtype("<u4"))
    tokens_NT = DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences))
    assert tokens_NT.min() > 65_535
    text = load_tokenizer(lake.store, manifest.source.spec)
    assert b"gr\xc3\xb6\xc3\x9fe say 1 2 3 4\n" in text.spell(tokens_NT.ravel())
    assert manifest.text_bytes == int(text.token_bytes[tokens_NT[:, 1:]].sum())

    run_training(TrainJob(config(), lake, "whole"), threads=1)
    stop = threading.Event()
    stopped = run_training(TrainJob(config(), lake, "run"), threads=1, stop=stop, on_event=lambda _: stop.set())
    assert (stopped.status, stopped.step) == ("stopped", 1)
    result = run_training(TrainJob(config(), lake, "run"), threads=1)
    assert curve(load_metrics(lake, "run")) == curve(load_metrics(lake, "whole"))
    scores = result.evals["wide-heldout@1"]
    assert scores["loss"] == pytest.approx(np.log(VOCAB), rel=0.1)
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] * scores["tokens"] / np.log(2) / scores["bytes"])

    arguments = ["--data", "wide-heldout@1", "--sequences", "4", "--precision", "fp32", "--json"]
    with pytest.raises(SystemExit) as exit_:
        main(["models", "evaluate", "large@1", *arguments, "--lake", lake.uri])
    assert not exit_.value.code
    found = json.loads(capsys.readouterr().out)["data"]["wide-heldout@1"]
    assert found["loss"] == pytest.approx(scores["loss"], rel=1e-6)
    with pytest.raises(SystemExit) as exit_:
        main(["models", "export", "large@1", str(tmp_path / "out"), "--lake", lake.uri])
    assert not exit_.value.code
    model = open_files(*((tmp_path / "out" / name).read_bytes() for name in (hf_layout.CONFIG, hf_layout.WEIGHTS)))
    assert model.shape.vocab_size == VOCAB
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_mixture_of_widths_is_widened_on_reading(lake: Lake) -> None:
    both = [{"dataset": "narrow@1"}, {"dataset": "wide@1"}]
    inputs = open_inputs(
        config().model_copy(update={"data": tuple(type(config().data[0])(**item) for item in both)}), lake
    )
    assert inputs.token_dtype == np.dtype("<u4")
    sources = [(data.store.uri, data.manifest.digest, data.repairer) for data in inputs.train]
    table = load_steps(range(3), sources=sources, plan=inputs.plan, world=1, rank=0)
    tokens_RT = np.frombuffer(table["tokens"].combine_chunks().buffers()[1], "<u4").reshape(-1, 32)
    narrow = table["source"].to_numpy() == 0
    assert narrow.any()
    assert not narrow.all()
    assert tokens_RT[narrow].max() < 257
    assert tokens_RT[~narrow].min() > 65_535
    datasets = [LakeDataset(lake.uri, item["dataset"], dtype=torch.int32) for item in both]
    loader = plan_loader(datasets, batch=2, steps=3)
    assert np.concatenate(list(loader)).astype("<u4").tolist() == tokens_RT.tolist()
    assert datasets[1][0].max() > 65_535
    with pytest.raises(ConfigError, match=r"dtype = torch.uint16: a vocabulary of 151,936 tokens does not fit"):
        LakeDataset(lake.uri, "wide@1", dtype=torch.uint16)


def test_rows_that_a_feed_names_are_read_in_their_width(lake: Lake) -> None:
    manifest = lake.datasets.manifest("wide@1")
    rows_N = np.array([3, 0, manifest.sequences - 1])
    shard = manifest.source.shard_sequences
    found = {int(first): (manifest.shards[int(first) // shard], None) for first in rows_N // shard * shard}
    fed = FedRows(lake.uri, shard, manifest.seq_len, manifest.token_dtype, found, Repairer())
    assert fed.rows(rows_N).tolist() == DatasetReader(lake.store, manifest).rows(rows_N).tolist()


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


def test_the_logits_are_never_held_whole() -> None:
    """256 tokens have 39 M logits; no tensor of a training step or an evaluation is larger than 17 M."""
    shape = ModelConfig(depth=1, layers=1, dim=4, heads=1, ffn=4).shape(VOCAB)
    model = Llama(shape, 0)
    tokens_BT = torch.randint(VOCAB, (4, 65), generator=torch.Generator().manual_seed(0))
    with _Largest() as largest:
        model(tokens_BT).sum().backward()
    assert VOCAB * 4 < largest.elements <= CHUNK_LOGITS < tokens_BT.numel() * VOCAB
    with _Largest() as largest, torch.no_grad():
        losses_BT, _ = model.scores(tokens_BT)
    assert largest.elements <= CHUNK_LOGITS
    hidden_ND = model.model(tokens_BT[:1, :-1])[0]
    whole_N, _ = token_scores(hidden_ND, model.lm_head.weight, tokens_BT[0, 1:], limit=2**40)
    torch.testing.assert_close(losses_BT[0], whole_N)
