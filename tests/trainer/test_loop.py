"""What a run leaves behind, and what it refuses."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from datalake import Lake, Run, lineage
from datalake.errors import CorruptShardError, InvalidNameError, NotFoundError, RunConflictError
from tests.trainer.lake_data import SEQ_LEN, add_dataset, curve, eval_curve, machine, patterned, tiny_config
from trainer import Batch, Ranks, TrainJob, TrainResult, hf_layout, load_metrics, local_batches, run_training
from trainer.errors import ConfigError, DivergedError, PlanMismatchError, TransferError
from trainer.model import Llama
from trainer.precision import resolve_precision

GOLDEN = Path(__file__).with_name("golden_losses.json")


def test_a_run_learns_and_records_itself(whole: tuple[Lake, TrainResult]) -> None:
    lake, result = whole
    assert (result.status, result.step, result.model) == ("finished", 14, "tiny@1")
    records = load_metrics(lake, "whole")
    assert [row[0] for row in curve(records)] == list(range(1, 15))
    assert [row["step"] for row in eval_curve(records)] == [5, 10, 14]
    assert eval_curve(records)[-1]["eval"] == result.evals
    losses = [row[1] for row in curve(records)]
    assert losses[0] == pytest.approx(np.log(32), abs=0.05)
    assert losses[-1] < losses[0] - 0.2
    assert records[0]["tokens"] == 4 * (SEQ_LEN - 1)
    assert result.facts["moved"] == []
    assert lake.runs.get("whole").state["result"] == json.loads(json.dumps(result.to_record()))


def test_golden_losses(whole: tuple[Lake, TrainResult]) -> None:
    """Bit for bit where torch, its kernels and the CPU are those of the file; to rounding elsewhere."""
    lake, _ = whole
    golden = json.loads(GOLDEN.read_text())
    found = [row[1] for row in curve(load_metrics(lake, "whole"))]
    if golden["machine"] == machine():
        assert found == golden["losses"]
    else:
        assert found == pytest.approx(golden["losses"], rel=1e-4)


def test_a_finished_run_returns_its_result_at_once(whole: tuple[Lake, TrainResult]) -> None:
    lake, result = whole
    events: list[dict] = []
    again = run_training(TrainJob(tiny_config(publish="tiny"), lake, "whole"), on_event=events.append)
    assert again == result
    assert events == []
    assert len(lake.models.history("tiny")) == 1


def test_a_name_belongs_to_one_configuration(whole: tuple[Lake, TrainResult]) -> None:
    lake, _ = whole
    with pytest.raises(RunConflictError, match="run 'whole' exists with another config"):
        run_training(TrainJob(tiny_config(publish="tiny", seed=1), lake, "whole"))


def test_published_model_is_the_trained_one(whole: tuple[Lake, TrainResult]) -> None:
    lake, result = whole
    version = lake.models.get("tiny@1")
    run = lake.runs.get("whole")
    weights = load(run.open_checkpoint(run.checkpoints[-1])["model.safetensors"])
    published = load(lake.models.open_file(version, hf_layout.WEIGHTS))
    assert published.keys() == weights.keys()
    assert all(torch.equal(published[name], weights[name]) for name in weights)
    assert version.metrics["held@1"]["loss"] == result.evals["held@1"]["loss"]
    tree = lineage(lake, "tiny@1")
    assert tree["run"]["name"] == "whole"
    assert [dataset["ref"] for dataset in tree["datasets"]] == ["train@1"]
    assert tree["spec_digests"] == [lake.datasets.manifest("train@1").source.spec_digest]


def test_transfer_is_recorded_and_changes_only_what_moved(lake: Lake) -> None:
    run_training(TrainJob(tiny_config(publish="pre"), lake, "pre"), threads=1)
    add_dataset(lake, "text", patterned(20, seed=3, vocab=50), kind="text", vocab=50)
    text = {"data": [{"dataset": "text@1"}], "eval": [], "seed": 5, "steps": 2, "optimizer": {"lr": 1e-12}}
    scratch = run_training(TrainJob(tiny_config(**text, publish="scratch"), lake, "scratch"), threads=1)
    arm = tiny_config(**text, publish="arm", transfer={"source": "pre@1", "what": "attn"})
    moved_arm = run_training(TrainJob(arm, lake, "arm"), threads=1)
    pre, base, arm_weights = (
        load(lake.models.open_file(f"{name}@1", hf_layout.WEIGHTS)) for name in ("pre", "scratch", "arm")
    )
    assert scratch.facts["moved"] == []
    assert sorted(moved_arm.facts["moved"]) == sorted(name for name in arm_weights if "self_attn" in name)
    for name, weight in arm_weights.items():
        origin = pre if name in moved_arm.facts["moved"] else base
        torch.testing.assert_close(weight, origin[name], rtol=0, atol=1e-10, msg=name)
    assert [parent["model"]["ref"] for parent in lineage(lake, "arm@1")["parents"]] == ["pre@1"]

    wide = tiny_config(**text, model={"depth": 2, "dim": 32, "heads": 2}, transfer={"source": "pre@1", "what": "all"})
    with pytest.raises(TransferError, match="in the target; give both models the same dim"):
        run_training(TrainJob(wide, lake, "wide"))
    assert "wide" not in lake.runs.list()


def test_stop_checkpoints_and_the_next_call_goes_on(lake: Lake, whole: tuple[Lake, TrainResult]) -> None:
    stop = threading.Event()

    def stop_at_7(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 7:
            stop.set()

    stopped = run_training(TrainJob(tiny_config(publish="tiny"), lake, "run"), stop=stop, on_event=stop_at_7, threads=1)
    assert (stopped.status, stopped.step, stopped.model) == ("stopped", 8, None)
    events: list[dict] = []
    finished = run_training(TrainJob(tiny_config(publish="tiny"), lake, "run"), on_event=events.append, threads=1)
    assert [event["step"] for event in events if event["event"] == "resume"] == [8]
    assert curve(load_metrics(lake, "run")) == curve(load_metrics(whole[0], "whole"))
    assert replace(finished, run="whole") == whole[1]


def test_a_batch_that_the_plan_does_not_name_is_refused(lake: Lake) -> None:
    def swapped(*args: Any) -> Any:
        for batch in local_batches(*args):
            yield Batch(batch.step, batch.rows[::-1], batch.tokens[::-1]) if batch.step == 2 else batch

    def late(*args: Any) -> Any:
        stream = local_batches(*args)
        next(stream)
        yield from stream

    def short(*args: Any) -> Any:
        yield next(local_batches(*args))

    def thin(*args: Any) -> Any:
        for batch in local_batches(*args):
            yield Batch(batch.step, batch.rows, batch.tokens[:-1])

    for name, factory, says in (
        ("swapped", swapped, r"step 2, rank 0 of 1: row 0 is \(source, row\)"),
        ("late", late, "batch says step 1, the plan is at step 0"),
        ("short", short, "ended before step 1"),
        ("thin", thin, r"tokens have shape \[3, 24\] for 4 rows"),
    ):
        with pytest.raises(PlanMismatchError, match=says):
            run_training(TrainJob(tiny_config(), lake, name, batches=factory), threads=1)
        assert lake.runs.get(name).status == "failed"


def test_divergence_stops_and_keeps_the_last_good_checkpoint(lake: Lake) -> None:
    config = tiny_config(optimizer={"lr": 1e30, "grad_clip": None}, schedule={"warmup_steps": 0}, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"lower optimizer.lr") as caught:
        run_training(TrainJob(config, lake, "run"), threads=1)
    assert "\n" not in str(caught.value)
    run = lake.runs.get("run")
    assert run.status == "failed"
    assert "DivergedError" in run.state["error"]
    for checkpoint in run.checkpoints:
        weights = load(run.open_checkpoint(checkpoint)["model.safetensors"])
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_a_compiler_that_fails_is_named_in_one_line(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(*_: Any) -> Any:
        raise FileNotFoundError("no working C++ compiler found\nand much more")

    def compile_blocks(model: Llama) -> None:
        for layer in model.model.layers:
            layer.compile(backend=without_compiler)

    monkeypatch.setattr(Llama, "compile_blocks", compile_blocks)
    config = tiny_config(model={"depth": 2, "dim": 16, "heads": 2, "compile": True})
    with pytest.raises(ConfigError, match=r"torch.compile failed \(.*no working C\+\+ compiler found\)") as caught:
        run_training(TrainJob(config, lake, "run"), threads=1)
    assert "\n" not in str(caught.value)
    assert "model.compile = true" in lake.runs.get("run").state["error"]


def test_a_kept_kernel_that_is_cut_short_is_named_with_its_folder(tmp_path: Path) -> None:
    code = """if True:
        import torch
        from trainer.compiling import naming_compiler_failures
        from trainer.errors import ConfigError
        try:
            with naming_compiler_failures():
                print(float(torch.compile(lambda x: (x + 1).relu().sum())(torch.ones(64))))
        except ConfigError as error:
            print(error)
    """
    kernels = tmp_path / "kernels"

    def run() -> str:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(kernels)}
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    assert run() == "128.0"
    libraries = list(kernels.rglob("*.main.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")  # as a machine that stops leaves it
    said = run()
    assert "\n" not in said
    assert f"is damaged; remove the folder {kernels}," in said


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_checkpoint_is_skipped_and_said(lake: Lake, whole: tuple[Lake, TrainResult], damage: str) -> None:
    stop = threading.Event()

    def stop_at_8(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 8:
            stop.set()

    run_training(TrainJob(tiny_config(publish="tiny"), lake, "run"), stop=stop, on_event=stop_at_8, threads=1)
    newest = lake.runs.get("run").checkpoints[-1]
    key = f"{newest.key_prefix}/model.safetensors"
    data = lake.store.get(key)
    lake.store.delete(key)
    if damage != "gone":
        lake.store.put_if_absent(key, data[:-10] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    events: list[dict] = []
    run_training(TrainJob(tiny_config(publish="tiny"), lake, "run"), on_event=events.append, threads=1)
    skipped = [event for event in events if event["event"] == "skipped_checkpoint"]
    assert [event["step"] for event in skipped] == [newest.step]
    assert "model.safetensors" in skipped[0]["problem"]
    assert [event["step"] for event in events if event["event"] == "resume"] == [6]
    assert curve(load_metrics(lake, "run")) == curve(load_metrics(whole[0], "whole"))


def test_a_corrupt_shard_is_refused(lake: Lake) -> None:
    key = lake.datasets.manifest("train@1").shards[1].key
    data = bytearray(lake.store.get(key))
    data[len(data) // 2] ^= 1
    lake.store.replace(key, bytes(data))
    with pytest.raises(CorruptShardError, match=key):
        run_training(TrainJob(tiny_config(), lake, "run"), threads=1)


def test_inputs_that_do_not_fit_leave_nothing_behind(lake: Lake) -> None:
    add_dataset(lake, "long", patterned(8, length=SEQ_LEN * 2))
    for changes, error, says in (
        ({"data": [{"dataset": "train@1"}, {"dataset": "long@1"}]}, ConfigError, "seq_len = 48, but train@1 has 24"),
        ({"eval": ["long@1"]}, ConfigError, "dataset long@1: seq_len = 48"),
        ({"model": {"depth": 1, "vocab_size": 31}}, ConfigError, "model.vocab_size = 31: the data needs 32"),
        (
            {"model": {"depth": 1, "learned_positions": 22}},
            ConfigError,
            "= 22: rows of 24 tokens need 23",
        ),
        ({"data": [{"dataset": "train@7"}]}, NotFoundError, "train"),
        ({"transfer": {"source": "nobody@1"}}, NotFoundError, "nobody"),
        ({"publish": "no name"}, InvalidNameError, "publish: model 'no name'"),
    ):
        with pytest.raises(error, match=says):
            run_training(TrainJob(tiny_config(**changes), lake, "run"))
    with pytest.raises(ConfigError, match=r"torch.distributed is not initialised"):
        run_training(TrainJob(tiny_config(), lake, "run"), Ranks.here(0, 2))
    assert list(lake.runs.list()) == []


def test_mixture_reads_every_source_as_the_plan_says(lake: Lake) -> None:
    add_dataset(lake, "more", patterned(9, seed=9))
    seen: list[np.ndarray] = []

    def spy(*args: Any) -> Any:
        for batch in local_batches(*args):
            seen.append(batch.rows)
            yield batch

    config = tiny_config(data=[{"dataset": "train@1", "weight": 3.0}, {"dataset": "more@1", "weight": 1.0}], eval=[])
    run_training(TrainJob(config, lake, "run", batches=spy), threads=1)
    sources = np.concatenate(seen)[:, 0]
    assert len(sources) == 14 * 4
    assert (sources == 1).sum() == 14


def test_settings_are_as_before(lake: Lake) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state())
    run_training(TrainJob(tiny_config(steps=2), lake, "run"), threads=1)
    after = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_readers_end_with_the_run(lake: Lake) -> None:
    class Gone(BaseException):
        pass

    def leave(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            raise Gone

    with pytest.raises(Gone):
        run_training(TrainJob(tiny_config(), lake, "run"), on_event=leave, threads=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches-")]


def test_bf16_is_as_repeatable(lake: Lake) -> None:
    stop = threading.Event()
    stop.set()
    config = tiny_config(precision="bf16", steps=4)
    run_training(TrainJob(config, lake, "whole"), threads=1)
    for _ in range(4):
        run_training(TrainJob(config, lake, "pieces"), stop=stop, threads=1)
    assert curve(load_metrics(lake, "pieces")) == curve(load_metrics(lake, "whole"))
    run: Run = lake.runs.get("pieces")
    assert [(a.step, b.step) for a, b in pairwise(run.checkpoints)] == [(1, 2), (2, 3), (3, 4)]


def test_precision_asked_for_is_given() -> None:
    cpu = torch.device("cpu")
    assert [resolve_precision(wanted, cpu) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
