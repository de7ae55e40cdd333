"""Attention within documents: a packed row is trained on as its documents would be one by one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models
from torch.nn.attention.flex_attention import create_block_mask

from datalake import Lake
from datalake.maintenance.import_ends import DocumentEnds
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from orchestration.corpus.add import add_corpus
from orchestration.corpus.options import ReadOptions
from orchestration.evaluation.models import held_out, open_dataset, open_model
from tests.datalake.test_import_layouts import megatron
from tests.trainer.lake_data import add_dataset, patterned, tiny_config
from trainer import TrainJob, run_training
from trainer import model as model_module
from trainer.config import ModelConfig, parse_config
from trainer.documents import end_of_documents, numbered
from trainer.errors import ConfigError
from trainer.evaluate import score
from trainer.inputs import open_inputs
from trainer.model import Llama
from trainer.windows import attention_mask

END = 31


def small(**fields: object) -> Llama:
    shape = ModelConfig(depth=2, dim=32, heads=4, kv_heads=2, **fields).shape(32)
    return Llama(shape, 0, recompute=bool(fields.get("recompute")))


def packed(*lengths: int) -> torch.Tensor:
    """One row [1, T]: the rest of a document, then whole ones of these lengths, each closed by END."""
    drawn = np.random.default_rng(0)
    return torch.tensor([[token for length in lengths for token in [*drawn.integers(0, END, length), END]]])


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"recompute": True}], ids=["plain", "qk_norm", "recompute"])
def test_a_packed_row_is_trained_on_as_its_documents_one_by_one(options) -> None:
    row_BT = packed(7, 1, 12, 0, 5)
    model = small(**options)
    losses_T = model(row_BT, numbered(row_BT, END))[0]
    losses_T.sum().backward()
    together = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    ends = [at for at, token in enumerate(row_BT[0].tolist()) if token == END]
    alone = [model(row_BT[:, begin : end + 1])[0] for begin, end in zip([0, *ends], ends, strict=False)]
    torch.cat(alone).sum().backward()
    assert losses_T.shape == torch.cat(alone).shape, "every token but the first is predicted once"
    torch.testing.assert_close(losses_T, torch.cat(alone))
    for name, weight in model.named_parameters():
        largest = max(1.0, float(weight.grad.abs().max()))  # the embedding's is 16: what cancels is rounded as it
        torch.testing.assert_close(together[name], weight.grad, rtol=1e-4, atol=1e-6 * largest)
    assert not torch.allclose(losses_T, model(row_BT)[0], atol=1e-3), "causal attention is something else"


def test_no_token_of_another_document_is_seen() -> None:
    row_BT = packed(9, 6, 8)
    other_BT = row_BT.clone()
    other_BT[0, :9] = (other_BT[0, :9] + 1) % END
    model = small()
    first, second = (model(tokens_BT, numbered(tokens_BT, END)) for tokens_BT in (row_BT, other_BT))
    assert (first[0, 9:] == second[0, 9:]).all()
    assert (first[0, :9] != second[0, :9]).any()
    for tokens_BT in (row_BT, other_BT):
        losses_BT, _ = score(model, tokens_BT.numpy(), "fp32", torch.device("cpu"), END)
        assert torch.from_numpy(losses_BT).float().equal(model(tokens_BT, numbered(tokens_BT, END)).detach())


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_the_blocks_for_a_gpu_attend_as_the_mask_does(monkeypatch) -> None:
    """FlexAttention interpreted on the CPU, with the blocks that a GPU would compute."""
    row_BT = torch.cat([packed(30, 90, 4, 50), packed(100, 2, 70, 2)])
    documents_BT = numbered(row_BT, END)
    batch, length = row_BT.shape

    def attends(b, _head, query, key):
        return (query >= key) & (documents_BT[b, query] == documents_BT[b, key])

    blocks = create_block_mask(attends, batch, None, length, length, device="cpu")
    model = small()
    monkeypatch.setattr(model_module, "_compiled_flex", lambda: model_module.flex_attention)
    rope = model.model._rope_for(length, torch.zeros(1))
    x_BTD = torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(0))
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        mask = attention_mask(length, x_BTD.device, documents_BT, None)
        torch.testing.assert_close(attention(x_BTD, rope, blocks), attention(x_BTD, rope, mask))


def test_a_run_by_document_resumes_and_is_evaluated_the_same_way(tmp_path: Path) -> None:
    """Text rows by document beside synthetic rows, whose tokens may spell the end of a text and mean nothing by it."""
    lake = Lake.open(str(tmp_path / "lake"))
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number}.txt").write_text(f"{number} says 1 2 3\n" * (number % 4 + 1))
    add_corpus(lake, "text", tmp_path / "text", seq_len=24, heldout_fraction=0.3)
    add_dataset(lake, "train", np.full((8, 24), 256, dtype=np.uint16), vocab=257)
    data = [{"dataset": "text@1"}, {"dataset": "train@1", "weight": 0.5}]
    fields = {"data": data, "eval": ["text-heldout@1"], "steps": 4, "micro_batches": 2, "checkpoint_every": 2}
    model = {"depth": 1, "dim": 16, "heads": 2, "vocab_size": 300}
    causal = tiny_config(**fields, model=model)
    config = tiny_config(**fields, model={**model, "attention": "document"}, publish="tiny")
    assert "attention" not in causal.model_dump()["model"]
    assert "end_of_text" not in causal.model_dump()["data"][0]
    assert parse_config(config.model_dump(mode="json")) == config
    assert open_inputs(config, lake).document_ends(config) == ([256, None], [256])
    result = run_training(TrainJob(config, lake, "run"), threads=1)
    losses = result.evals["text-heldout@1"]["loss"], run_training(TrainJob(causal, lake, "causal"), threads=1).evals
    assert losses[0] != losses[1]["text-heldout@1"]["loss"]
    opened = open_model(lake, "tiny@1", device="cpu", precision="fp32")
    found = held_out(opened, [open_dataset(lake, opened, "text-heldout@1")], 256, lambda *_: None)
    assert found["text-heldout@1"]["loss"] == pytest.approx(losses[0], rel=1e-6)
    assert lake.runs.get("run").state["config"]["model"]["attention"] == "document"


IDS = {
    "ended": ([[1, 2, END], [3, END], [4, 5, 6, END]], None),
    "ended here": ([[1, 2], [3], [], [4, 5, 6]], None),
    "within": ([[1, END, 2], [3, END], [4, END, END]], "special_tokens_in_text"),
}


@pytest.mark.parametrize("case", IDS)
def test_token_ids_that_hold_the_end_of_a_text_within_say_so(tmp_path: Path, case: str) -> None:
    documents, said = IDS[case]
    lake = Lake.open(str(tmp_path / "lake"))
    unused = [chr(0x4E00 + at) for at in range(END - 26)]
    vocabulary = {piece: at for at, piece in enumerate([*"abcdefghijklmnopqrstuvwxyz", *unused])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = [json.dumps({"ids": [number, *ids]}) for number in range(3) for ids in documents]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    made = add_corpus(
        lake,
        "ids",
        tmp_path / "in.jsonl",
        tokenizer=str(tmp_path / "tokenizer.json"),
        lossy=True,
        options=ReadOptions(ids=True),
        text_column="ids",
        seq_len=4,
        heldout_fraction=0,
    )
    manifest = lake.datasets.manifest(made.train)
    assert end_of_documents(manifest) == (None if said else END)
    assert manifest.source.spec.get("special_tokens_in_text") == (True if said else None)


MEGATRON = {
    "ended": ([[[1, 2, END]], [[3, END], [4, END]]], "special_tokens_in_text"),
    "ended once": ([[[1, 2, END]], [[3], [4, END]]], None),
    "not ended": ([[[1, 2, END]], [[3, 4]]], "documents_unmarked"),
    "not ended anywhere": ([[[1, 2]], [[3, 4], [5]]], "documents_unmarked"),
}


@pytest.mark.parametrize("case", MEGATRON)
def test_imported_documents_that_do_not_show_their_ends_say_so(tmp_path: Path, case: str) -> None:
    documents, said = MEGATRON[case]
    lake = Lake.open(str(tmp_path / "lake"))
    tokenizer = {"tokenizer": "x", "end_of_text": END}
    path = megatron(tmp_path / "in", documents)
    made = import_files(lake, "d", [path], ImportOptions(seq_len=3, vocab_size=32, tokenizer=tokenizer))
    manifest = lake.datasets.manifest(made)
    flags = {"special_tokens_in_text", "documents_unmarked"} & set(manifest.source.spec)
    assert flags == ({said} if said else set())
    assert end_of_documents(manifest) == (None if said else END)
    if said == "documents_unmarked":
        options = ImportOptions(seq_len=3, vocab_size=32, tokenizer=tokenizer, end_of_text=END)
        closed = lake.datasets.manifest(import_files(lake, "closed", [path], options))
        assert end_of_documents(closed) == (END if case == "not ended anywhere" else None)


def test_pieces_of_imported_documents_are_looked_at_as_the_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(0, 4, 6)
        tokens = rng.integers(0, 2, lengths.sum())
        ends = np.cumsum(lengths)
        whole, pieces = DocumentEnds(1), DocumentEnds(1)
        whole.see(tokens, ends)
        cuts = [0, *sorted(rng.integers(0, len(tokens) + 1, 3)), len(tokens)]
        for at, (low, high) in enumerate(pairwise(cuts)):
            here = ends[(ends > low) & (ends <= high)] if at else ends[ends <= high]
            pieces.see(tokens[low:high], here - low)
        documents = np.split(tokens, ends[:-1])
        assert whole.unmarked == pieces.unmarked == any(len(d) and d[-1] != 1 for d in documents)
        assert whole.held_within == pieces.held_within == any((d[:-1] == 1).any() for d in documents)


def test_what_does_not_show_its_documents_is_refused_until_told(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    add_dataset(lake, "chat", patterned(8), kind="text", tokenizer="x", end_of_text=3, special_tokens_in_text=True)
    add_dataset(lake, "plain", patterned(8), kind="text")
    model = {"depth": 1, "dim": 16, "heads": 2, "attention": "document"}
    for name, why in (("chat", "its documents hold the token"), ("plain", "made without a tokenizer")):
        config = tiny_config(model=model, data=[{"dataset": f"{name}@1"}], eval=[f"{name}@1"])
        with pytest.raises(ConfigError, match=rf"dataset {name}@1 does not show .*{why}.*end_of_text.*'causal'"):
            open_inputs(config, lake)
        data = [{"dataset": f"{name}@1", "end_of_text": 5}]
        config = tiny_config(model=model, data=data, eval=["plain@1"])
        assert open_inputs(config, lake).document_ends(config) == ([5], [5])
    fields = {"model": {"depth": 1}, "data": [{"dataset": "a@1"}], "steps": 1, "batch_sequences": 1}
    with pytest.raises(ConfigError, match=r"read by model.attention = 'document' only"):
        parse_config({**fields, "data": [{"dataset": "a@1", "end_of_text": 1}]})
    with pytest.raises(ConfigError, match=r"model.attention = 'x'"):
        parse_config({**fields, "model": {"depth": 1, "attention": "x"}})
