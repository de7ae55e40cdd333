"""Two ranks that share each tensor's rows (FSDP2): DDP's losses, its own bits on resume, any number of ranks after."""

import ctypes
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load

from datalake import Lake
from datalake.errors import StoreUnavailableError
from datalake.store.local import LocalStore
from tests.processes import run_ranks
from tests.trainer.lake_data import add_dataset, curve, eval_curve, patterned, tiny_config, tiny_lake
from tests.trainer.test_ranks import WORLD, free_port, train
from trainer import Ranks, TrainJob, hf_layout, load_metrics
from trainer.inputs import open_inputs
from trainer.learner import TextLearner
from trainer.model import Llama, count_parameters
from trainer.shards import local, wanted_rows
from trainer.transfer import transfer

# 33 rows of embedding, 3 heads' keys: cut unevenly. 33 held-out rows: the ranks need one pass and two to score them.
BASE: dict[str, Any] = {
    "model": {"depth": 2, "dim": 24, "heads": 4, "kv_heads": 1, "vocab_size": 33, "recompute": True, "qk_norm": True},
    "eval": ["held33@1"],
    "average": {"decay": 0.5, "start_fraction": 0.3},
    "micro_batches": 2,
    "publish": None,
}
# Muon, matrices left to AdamW, some that stand still at first, and decay toward where they began.
HYBRID: dict[str, Any] = {
    **BASE,
    "optimizer": {"name": "hybrid", "lr": 1e-2},
    "transfer": {"source": "ddp@1", "what": "attn", "freeze_steps": 2, "decay_toward": "source"},
    "steps": 6,
    "eval": [],
}
# Layers that gather their weights twice in a pass from the fourth update on, and tables beside the embedding.
OPTIONS: dict[str, Any] = {
    **BASE,
    "model": {
        **BASE["model"],
        "layers": 3,
        "recompute": False,
        "window_pattern": "S",
        "window": 5,
        "value_embeddings": True,
        "repeat": {"first": 1, "last": 2, "times": 2, "from_fraction": 0.4},
    },
    "ensemble": {"checkpoints": 3},
    "keep_last": 1,
    "steps": 8,
}
# Wide enough that half of a matrix is still kept in 8 bits (4,096 values), but for norms and vocabulary.
LOWBIT: dict[str, Any] = {
    **BASE,
    "model": {"depth": 1, "dim": 96, "heads": 2},
    "optimizer": {"name": "adamw8bit", "lr": 1e-2},
    "steps": 8,
    "eval": [],
}
# 17 M parameters, 67 MB, of which a rank is to hold half.
WIDE: dict[str, Any] = {**BASE, "model": {"depth": 1, "dim": 256, "heads": 2, "vocab_size": 32_768}}


def start_wide(rank: int, lake_uri: str) -> dict[str, Any]:
    """What starting takes of memory at most, what the whole model would, and whether this rank's rows are its own."""
    config, lake = tiny_config(**WIDE), Lake.open(lake_uri)
    inputs, job = open_inputs(config, lake), TrainJob(config, lake, "wide", "fsdp")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # pages of earlier trainings, free but kept, would take what follows unseen
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory is counted anew
    before = resident("VmHWM")
    model = TextLearner(job, lake, inputs, Ranks.here(rank, WORLD)).model
    peak = resident("VmHWM") - before
    whole = Llama(config.model.shape(inputs.vocab_size), config.seed)
    return {"peak": peak, "whole": 4 * count_parameters(whole), "equal": has_rows_of(model, whole)}


def has_rows_of(model: Llama, whole: Llama) -> bool:
    """Whether what this rank holds of ``model`` is, row by row, what ``whole`` has."""
    return all(
        torch.equal(local(mine), theirs[slice(*wanted_rows(theirs.shape, mine))])
        for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True)
    )


def heads_moved(rank: int, lake_uri: str) -> bool:
    """Whether what two single heads of a published model bring is, row by row, what it is in one process."""
    config, lake = tiny_config(**BASE, transfer={"source": "ddp@1", "what": "head-0.1+1.3+norm"}), Lake.open(lake_uri)
    inputs, job = open_inputs(config, lake), TrainJob(config, lake, "heads", "fsdp")
    model = TextLearner(job, lake, inputs, Ranks.here(rank, WORLD)).model
    whole = Llama(config.model.shape(inputs.vocab_size), config.seed)
    source = load(lake.models.open_file("ddp@1", hf_layout.WEIGHTS))
    transfer(whole, {name: tuple(each.shape) for name, each in source.items()}, source.items(), "head-0.1+1.3+norm", 0)
    return has_rows_of(model, whole)


def resident(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def worker(rank: int, port: int, lake_uri: str, report: str) -> None:
    """Every scenario in one pair of processes, since starting them costs more than running them."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    facts: dict[str, Any] = {}
    train(rank, lake_uri, "ddp", **{**BASE, "publish": "ddp"})
    train(rank, lake_uri, "fsdp", parallel="fsdp", **{**BASE, "publish": "fsdp"})
    for name, changes in (("killed", BASE), ("hybrid-killed", HYBRID), ("lowbit-killed", LOWBIT)):
        train(rank, lake_uri, name, parallel="fsdp", kill_at=5, **changes)
        train(rank, lake_uri, name, parallel="fsdp", **changes)
    facts["heads"] = heads_moved(rank, lake_uri)
    facts["wide"] = start_wide(rank, lake_uri)  # once all that is imported on the way has been
    train(rank, lake_uri, "hybrid-ddp", **HYBRID)
    train(rank, lake_uri, "hybrid", parallel="fsdp", **HYBRID)
    train(rank, lake_uri, "lowbit", parallel="fsdp", **LOWBIT)
    train(rank, lake_uri, "options-ddp", **OPTIONS)
    train(rank, lake_uri, "options-killed", parallel="fsdp", kill_at=5, **OPTIONS)
    train(rank, lake_uri, "options-killed", parallel="fsdp", **OPTIONS)
    train(rank, lake_uri, "options", parallel="fsdp", **OPTIONS)
    facts["rows"] = [
        train(rank, lake_uri, "on-and-on", parallel="fsdp", kill_at=8, **BASE),  # begun alone
        train(rank, lake_uri, "on-and-on", parallel="ddp", kill_at=11, **BASE),  # ended alone
    ]
    train(rank, lake_uri, "to-one", parallel="fsdp", kill_at=8, **BASE)
    train(rank, lake_uri, "lowbit-to-one", parallel="fsdp", kill_at=5, **LOWBIT)

    real = LocalStore.put_if_absent

    def refuses(store: LocalStore, key: str, data: bytes) -> bool:
        if "model.1-of-2" in key:
            raise StoreUnavailableError("the store is away: wait")
        return real(store, key, data)

    LocalStore.put_if_absent = refuses  # type: ignore[method-assign]
    try:
        train(rank, lake_uri, "refused", parallel="fsdp", **BASE)
    except Exception as error:  # noqa: BLE001  (reported to the test)
        facts["error"] = f"{type(error).__name__}: {error}"
    Path(f"{report}.{rank}").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sharded")
    lake = tiny_lake(folder / "lake")
    add_dataset(lake, "held33", patterned(33, seed=5))
    first = train(0, lake.uri, "on-and-on", world=1, kill_at=5, **BASE)
    run_ranks(worker, free_port(), lake.uri, str(folder / "report"))
    reports = [json.loads((folder / f"report.{rank}").read_text()) for rank in range(WORLD)]
    reports[0]["first"] = first
    return lake, reports


def assert_close(lake: Lake, run: str, other: str, rel: float = 1e-4) -> None:
    found, expected = load_metrics(lake, run), load_metrics(lake, other)
    assert len(curve(found)) == len(curve(expected)) > 0
    for row, wanted in zip(curve(found), curve(expected), strict=True):
        assert row == pytest.approx(wanted, rel=rel)
    for row, wanted in zip(eval_curve(found), eval_curve(expected), strict=True):
        assert row["eval"]["held33@1"]["loss"] == pytest.approx(wanted["eval"]["held33@1"]["loss"], rel=rel)


def test_losses_and_weights_are_ddp_s_to_rounding(pair: tuple[Lake, list[dict]]) -> None:
    lake, _ = pair
    assert_close(lake, "fsdp", "ddp")
    assert_close(lake, "hybrid", "hybrid-ddp", rel=2e-2)  # Muon works in bf16
    assert_close(lake, "options", "options-ddp")
    together = [
        eval_curve(load_metrics(lake, run))[-1]["eval"]["held33@1"]["ensemble"] for run in ("options", "options-ddp")
    ]
    assert together[0]["steps"] == [3, 6, 8]
    assert together[0]["loss"] == pytest.approx(together[1]["loss"], rel=1e-4)
    ours, theirs = (load(lake.models.open_file(f"{name}@1", hf_layout.WEIGHTS)) for name in ("fsdp", "ddp"))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_single_heads_move_into_rows_that_ranks_share(pair: tuple[Lake, list[dict]]) -> None:
    assert [report["heads"] for report in pair[1]] == [True, True]


def test_no_rank_holds_the_whole_model_as_it_starts(pair: tuple[Lake, list[dict]]) -> None:
    for report in pair[1]:
        wide = report["wide"]
        assert wide["equal"], "the rows are what a start in one process draws"
        # From below so that the measure is known to have seen its half.
        assert 0.4 * wide["whole"] < wide["peak"] < 0.8 * wide["whole"]


def test_each_rank_writes_its_rows(pair: tuple[Lake, list[dict]]) -> None:
    lake, _ = pair
    run = lake.runs.get("fsdp")
    files = dict(run.open_checkpoint(run.checkpoints[-1]))
    kinds = [f"{kind}.{rank}-of-2.safetensors" for kind in ("average", "model", "optimizer") for rank in (0, 1)]
    assert sorted(files) == sorted([*kinds, "shards.json", "state.json"])
    about = json.loads(files["shards.json"])["tensors"]
    assert about["model"]["model.embed_tokens.weight"] == {"shape": [33, 24], "rows": [0, 17, 33]}
    parts = [load(files[f"optimizer.{rank}-of-2.safetensors"]) for rank in (0, 1)]
    assert [part["lm_head.weight.exp_avg"].shape[0] for part in parts] == [17, 16]


@pytest.mark.parametrize("name", ["fsdp", "hybrid", "lowbit", "options"])
def test_killed_pair_resumes_to_the_bit(pair: tuple[Lake, list[dict]], name: str) -> None:
    lake, killed = pair[0], "killed" if name == "fsdp" else f"{name}-killed"
    assert lake.runs.get(killed).state["attempts"] == 2
    assert curve(load_metrics(lake, killed)) == curve(load_metrics(lake, name))
    last, expected = (lake.runs.get(run).checkpoints[-1].files for run in (killed, name))
    assert last == expected


def test_any_number_of_ranks_goes_on(pair: tuple[Lake, list[dict]]) -> None:
    """One, two that share rows, two that do not, one; and two that share rows, then one."""
    lake, reports = pair
    ended = train(0, lake.uri, "on-and-on", world=1, **BASE)
    rows = {int(step): found for step, found in reports[0]["first"].items()}
    for sharing, whole in zip(reports[0]["rows"], reports[1]["rows"], strict=True):
        rows |= {int(step): sharing[step] + whole[step] for step in sharing}
    rows |= ended
    plan = open_inputs(tiny_config(**BASE), lake).plan
    assert [rows[step] for step in range(14)] == [plan.rows(step).tolist() for step in range(14)]
    assert_close(lake, "on-and-on", "ddp")
    train(0, lake.uri, "to-one", world=1, **BASE)
    assert_close(lake, "to-one", "ddp")


def test_8_bit_states_go_on_alone(pair: tuple[Lake, list[dict]]) -> None:
    """Put together and rounded anew to blocks of other rows: close, not equal."""
    lake, _ = pair
    stored = load(lake.store.get(f"{lake.runs.get('lowbit').checkpoints[-1].key_prefix}/optimizer.0-of-2.safetensors"))
    assert stored["model.layers.0.mlp.up_proj.weight.exp_avg.codes"].dtype == torch.uint8
    train(0, lake.uri, "lowbit-to-one", world=1, **LOWBIT)
    assert_close(lake, "lowbit-to-one", "lowbit", rel=2e-2)


def test_a_rank_that_cannot_upload_stops_all(pair: tuple[Lake, list[dict]]) -> None:
    lake, (zero, one) = pair
    assert one["error"] == "StoreUnavailableError: the store is away: wait"
    assert zero["error"] == f"RankError: rank 1 failed: {one['error']}"
    assert lake.runs.get("refused").checkpoints == ()


def compiled_worker(rank: int, port: int, lake_uri: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    small: dict[str, Any] = {"depth": 1, "dim": 16, "heads": 2}  # compiling takes a minute or two as it is
    plain: dict[str, Any] = {"model": small, "steps": 2, "eval": [], "publish": None}
    train(rank, lake_uri, "plain", parallel="fsdp", **plain)
    compiled = {**plain, "model": {**small, "compile": True}}
    train(rank, lake_uri, "compiled", parallel="fsdp", **compiled)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.soak
def test_compiled_blocks_share_rows_too(tmp_path: Path) -> None:
    lake = tiny_lake(tmp_path / "lake")
    run_ranks(compiled_worker, free_port(), lake.uri)
    for row, other in zip(curve(load_metrics(lake, "compiled")), curve(load_metrics(lake, "plain")), strict=True):
        assert row == pytest.approx(other, rel=1e-3)
