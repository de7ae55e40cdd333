"""An arm's result, gathered from the records of its runs: what really ran, not what was planned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datalake import Lake, Run
from datalake.canonical import canonical_json
from orchestration.experiment.config.configs import shared_hash
from orchestration.experiment.config.file import ExperimentFile
from orchestration.experiment.result import Arm, ArmResult, Cost, CurvePoint, Gate, LabelCheck, SweepTrial
from orchestration.generation.recompute import make_repairer
from trainer import TrainConfig, TrainResult, load_metrics
from trainer.inputs import Inputs, open_inputs
from trainer.mask import LossMask, dataset_mask

LABEL_ROWS, LABEL_TOKENS = 64, 2**16
"""At least so many rows check an arm's labels, and more of short ones."""

CONTROLS = ("none", "stats", "text", "shuffled", "iid")
"""Levels of ``pre`` that claim to teach nothing, so that no gate can void them."""


def arm_result(
    lake: Lake,
    file: ExperimentFile,
    arm: Arm,
    run: str,
    pre_run: str | None,
    sweep: Sequence[SweepTrial],
    labels: LabelCheck | None,
) -> ArmResult:
    """The result of an arm whose runs have finished. Raises what the lake raises about records that are not there."""
    record = lake.runs.get(run)
    config, result = _ran(record)
    final = _scored(result.evals)
    inputs = open_inputs(config, lake)
    language, mixed_in = costs(lake, run, config, result, inputs)
    gate, in_context, pre, pre_config = None, None, mixed_in, None
    if pre_run is not None:
        earlier = lake.runs.get(pre_run)
        pre_config, before = _ran(earlier)
        pre, _ = costs(lake, pre_run, pre_config, before, open_inputs(pre_config, lake))
        gate, in_context = gate_of(pre_run, before)
    return ArmResult(
        arm=arm,
        status="finished",
        run=run,
        model=result.model,
        config=record.state["config"],
        pre_config=None if pre_config is None else pre_config.model_dump(mode="json"),
        shared_hash=shared_hash(file, record.state["config"]),
        checks=checks_of(lake, record, config, result, inputs, lr_trials=max(1, len(sweep))),
        labels=labels,
        curve=curve_of(lake, run, inputs),
        final_loss=final["loss"],
        accuracy=final.get("answers", {}).get("accuracy"),
        bits_per_byte=final.get("bits_per_byte"),
        in_context=in_context,
        gated=pre_run is not None and arm.factors["pre"] not in CONTROLS,
        gate=gate,
        language=language,
        pre=pre,
        sweep=tuple(sweep),
    )


def checks_of(
    lake: Lake, record: Run, config: TrainConfig, result: TrainResult, inputs: Inputs, lr_trials: int
) -> dict[str, str | int | float]:
    """What compared arms must have in common, by name."""
    (eval_ref,) = config.eval
    (scores,) = result.evals.values()
    recorded = record.state["inputs"]
    read = _language_rows(inputs, result.step)
    return {
        "parameters": result.facts["parameters"],
        "plan_digest": recorded["plan"],
        "batch_sequences": config.batch_sequences,
        "schedule": _json(config.schedule.model_dump(mode="json")),
        "steps": result.step,
        "epochs": round(read / inputs.train[0].manifest.sequences, 6),
        "averaging": _json(config.average.model_dump(mode="json") if config.average else None),
        "eval_digest": recorded["digests"][eval_ref],
        "eval_sequences": scores["sequences"],
        "seq_len": lake.datasets.manifest(eval_ref).seq_len,
        "precision": result.facts["precision"],
        "lr_trials": lr_trials,
    }


def curve_of(lake: Lake, run: str, inputs: Inputs) -> tuple[CurvePoint, ...]:
    """Every held-out evaluation of a run with one evaluation set, over language tokens and time trained; the last is of
    its ensemble, where the run has one."""
    seconds, tokens, points = 0.0, 0, []
    for row in load_metrics(lake, run):
        if "loss" in row:
            seconds += (row["tokens"] - tokens) / row["tokens_per_s"]
            tokens = row["tokens"]
        else:
            scores = _scored(row["eval"])
            language = _language_rows(inputs, row["step"]) * (inputs.seq_len - 1)
            points.append(
                CurvePoint(
                    step=row["step"],
                    tokens=language,
                    loss=scores["loss"],
                    seconds=seconds,
                    accuracy=scores.get("answers", {}).get("accuracy"),
                )
            )
    return tuple(points)


def costs(lake: Lake, run: str, config: TrainConfig, result: TrainResult, inputs: Inputs) -> tuple[Cost, Cost | None]:
    """Of the first dataset, and of what was mixed into it, which shares the run's time by tokens."""
    seconds, tokens = 0.0, 0
    for row in load_metrics(lake, run):
        if "loss" in row:
            seconds += (row["tokens"] - tokens) / row["tokens_per_s"]
            tokens = row["tokens"]
    every = result.step * config.batch_sequences * (inputs.seq_len - 1)
    first = _language_rows(inputs, result.step) * (inputs.seq_len - 1)

    def part(count: int) -> Cost:
        flops = float(count * result.facts["flops_per_token"])
        return Cost(tokens=count, flops=flops, seconds=seconds * count / every)

    return part(first), part(every - first) if every > first else None


def gate_of(run: str, result: TrainResult) -> tuple[Gate | None, tuple[float, ...] | None]:
    """The gate of a pre-pre-training run and its loss by frame; None for text, which has neither."""
    ((dataset, scores),) = result.evals.items()
    gate = None
    if (found := scores.get("gate")) is not None:
        gate = Gate(
            learned=found["passed"],
            loss=found["loss"],
            unigram_entropy=found["entropy"],
            counting=found.get("counting"),
            dataset=dataset,
            run=run,
        )
    frames = scores.get("frames")
    return gate, tuple(frames) if frames else None


def check_labels(lake: Lake, model: str, dataset: str, sequences: int, mask: LossMask = "none") -> dict[str, Any]:
    """A ``LabelCheck`` as a mapping: the published model's loss against the token read, the next, the one after.

    Where training counted answers alone (``mask``), so does this; an answer that ends its row has no token after it,
    and the loss of the token read stands for it.
    """
    import torch

    from trainer.loss import CHUNK_LOGITS, chunk_tokens
    from trainer.precision import pick_device
    from trainer.published import open_published

    device = pick_device(None)
    network = open_published(lake, lake.models.get(model)).eval().to(device)
    manifest = lake.datasets.manifest(dataset)
    scored = min(sequences, manifest.sequences)
    rows = min(scored, max(LABEL_ROWS, LABEL_TOKENS // manifest.seq_len))
    reader = make_repairer(lake.store.uri).reader(lake.store, manifest)
    tokens_BT = torch.from_numpy(reader.rows(np.arange(rows)).astype(np.int64)).to(device)
    losses_NR = {name: np.zeros(rows) for name in ("same", "next", "after_next")}
    counted_T = dataset_mask(manifest, mask if mask == "answers" else "none")
    # Of prediction t: whether it counts; the last token's own, which no evaluation scores, unless answers alone do.
    counts_T = torch.from_numpy(np.append(counted_T, mask != "answers")).to(device)
    read = min(len(counts_T), network.shape.learned_positions or len(counts_T))  # positions that the model has
    counts_T[read:] = False
    numbers = {"same": int(counts_T.sum()), "next": int(counted_T.sum()), "after_next": int(counted_T[:-1].sum())}
    step = chunk_tokens(network.lm_head.weight, CHUNK_LOGITS)
    with torch.no_grad():
        for row, row_T in enumerate(tokens_BT):
            hidden_TD = network.model(row_T[None, :read])[0]
            for start in range(0, read, step):
                log_NV = network.lm_head(hidden_TD[start : start + step]).double().log_softmax(-1)
                for shift, (name, losses_R) in enumerate(losses_NR.items()):
                    targets = row_T[start + shift : start + shift + len(log_NV), None]
                    chosen = log_NV[: len(targets)].gather(1, targets)[counts_T[start : start + len(targets)]]
                    losses_R[row] -= float(chosen.sum()) / max(1, numbers[name])
    if not numbers["after_next"]:
        losses_NR["after_next"] = losses_NR["same"]
    spread = float(losses_NR["next"].std(ddof=1)) if 1 < rows < scored else 0.0
    means = {name: float(losses_R.mean()) for name, losses_R in losses_NR.items()}
    return means | {"sequences": rows, "error": spread / rows**0.5}


def failed(arm: Arm, run: str, error: str, sweep: Sequence[SweepTrial] = ()) -> ArmResult:
    """An arm that came to nothing, and why."""
    return ArmResult(arm=arm, status="failed", run=run, error=error, sweep=tuple(sweep))


def _ran(record: Run) -> tuple[TrainConfig, TrainResult]:
    return TrainConfig.model_validate(record.state["config"]), TrainResult.from_record(record.state["result"])


def _language_rows(inputs: Inputs, step: int) -> int:
    """Rows of the first dataset read before ``step``."""
    epoch, row = inputs.plan.position(step)[0]
    return epoch * inputs.train[0].manifest.sequences + row


def _json(value: Mapping[str, Any] | None) -> str:
    return canonical_json(value).decode()


def loss_of(result: TrainResult) -> float:
    """The last held-out loss of a run with one evaluation set; infinite if it is no number."""
    loss = _scored(result.evals)["loss"]
    return loss if math.isfinite(loss) else math.inf


def _scored(evals: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with one evaluation set is judged by: its ensemble at the end of a run that has one."""
    (scores,) = evals.values()
    return scores.get("ensemble", scores)
