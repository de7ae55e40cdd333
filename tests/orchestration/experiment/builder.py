"""Synthetic experiments whose truth is known: planted effects, and clean until a test spoils them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestration.experiment.config.shared import shared_hash
from orchestration.experiment.result import (
    NOT_APPLICABLE,
    Arm,
    ArmResult,
    Cost,
    CurvePoint,
    ExperimentResult,
    Gate,
    LabelCheck,
    SweepTrial,
)

STEPS, EVERY, BATCH, SEQ_LEN = 100, 10, 16, 64
TOKENS = STEPS * BATCH * SEQ_LEN
LEAVE_OUT = ("seed", "optimizer.name", "optimizer.lr", "transfer", "publish")
PRE_TOKENS = TOKENS // 4
CONTROLS = ("shuffled", "stats", "iid", "none")


def arm_result(
    factors: Mapping[str, str], seed: int, final: float, *, speed: float = 1.0, noise: Any = None
) -> ArmResult:
    """A clean finished arm whose curve falls as a power law of tokens to ``final``; more ``speed`` falls earlier."""
    pre, optimizer = factors["pre"], factors.get("optimizer", "adamw")
    config: dict[str, Any] = {
        "model": {"layers": 2, "width": 64},
        "data": [{"dataset": "text@1", "weight": 1.0}],
        "steps": STEPS,
        "batch_sequences": BATCH,
        "eval_sequences": 32,
        "seed": seed,
        "optimizer": {"name": optimizer, "lr": 0.003 if optimizer == "adamw" else 0.02, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 10},
        "average": None,
        "transfer": None if pre == "none" else {"source": f"{pre}-{seed}@1", "what": factors.get("transfer", "attn")},
    }
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    share = steps / STEPS
    losses = final + 1.6 * (share ** (-0.35 / speed) - 1) / (1 + share)
    if noise is not None:
        losses[:-1] += noise.normal(0, 0.004, len(losses) - 1)
    curve = tuple(
        CurvePoint(step=int(step), tokens=int(step) * BATCH * SEQ_LEN, loss=float(loss), seconds=0.5 * float(step))
        for step, loss in zip(steps, losses, strict=True)
    )
    staged = pre != "none"
    rates = (0.001, 0.003, 0.01) if optimizer == "adamw" else (0.01, 0.02, 0.05)
    gated = pre not in CONTROLS
    return ArmResult(
        arm=Arm(factors=dict(factors), seed=seed),
        status="finished",
        run=f"arm-{'-'.join(factors.values())}-{seed}",
        model=f"arm-{'-'.join(factors.values())}-{seed}@1",
        config=config,
        pre_config={"steps": 25, "seed": seed} if staged else None,
        shared_hash=shared_hash(config, LEAVE_OUT),
        checks={
            "parameters": 123_456,
            "plan_digest": f"plan of seed {seed}",
            "batch_sequences": BATCH,
            "schedule": '{"name":"cosine","warmup_steps":10}',
            "steps": STEPS,
            "epochs": 0.8,
            "averaging": "null",
            "eval_digest": "e" * 64,
            "eval_sequences": 32,
            "seq_len": SEQ_LEN,
            "lr_trials": 3,
            "precision": "fp32",
        },
        labels=LabelCheck(same=final + 5, next=final, after_next=final + 2, sequences=32),
        curve=curve,
        final_loss=curve[-1].loss,
        in_context=tuple(float(4 + 2 * 0.7**frame) for frame in range(8)) if gated else None,
        gated=gated,
        gate=Gate(
            learned=gated,
            loss=4.2 if gated else 5.8,
            unigram_entropy=5.59,
            dataset=f"{pre}-gate@1",
            run=f"pre-{pre}-{seed}",
        )
        if staged
        else None,
        language=Cost(tokens=TOKENS, flops=6e9, seconds=50.0),
        pre=Cost(tokens=PRE_TOKENS, flops=1.5e9, seconds=12.5) if staged else None,
        sweep=tuple(SweepTrial(rate=rate, loss=3.0 + abs(at - 1) * 0.1) for at, rate in enumerate(rates)),
    )


def experiment(
    effects: Mapping[str, float],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    optimizers: Sequence[str] = ("adamw",),
    seed_sd: float = 0.02,
    pair_sd: float = 0.002,
    rng: np.random.Generator | None = None,
    curve_noise: bool = False,
    interaction: Mapping[tuple[str, str], float] | None = None,
) -> ExperimentResult:
    """none and every level of ``effects`` (mean difference from none, nats) × optimisers × seeds.

    ``seed_sd`` moves all arms of a seed together, as pairing takes out; ``pair_sd`` is the standard deviation of a
    paired difference, which all differences of a seed and optimiser share half of, through their baseline.
    """
    rng = rng or np.random.default_rng(0)
    noise = rng if curve_noise else None
    arms = []
    base = {"adamw": 3.2, "muon": 3.1}
    common = {seed: rng.normal(0, seed_sd) for seed in seeds}
    for optimizer in optimizers:
        for level, effect in {"none": 0.0, **effects}.items():
            pre_optimizer = NOT_APPLICABLE if level == "none" else "adamw"
            factors = {"pre": level, "pre_optimizer": pre_optimizer, "optimizer": optimizer}
            shift = effect + (interaction or {}).get((level, optimizer), 0.0)
            for seed in seeds:
                final = base[optimizer] + common[seed] + shift + rng.normal(0, pair_sd / np.sqrt(2))
                arms.append(arm_result(factors, seed, float(final), speed=1 - 8 * shift, noise=noise))
    return ExperimentResult(
        name="synthetic",
        file_digest="f" * 64,
        experiment={"seeds": list(seeds), "factors": {"pre": ["none", *effects], "optimizer": list(optimizers)}},
        baseline={"pre": "none", "optimizer": optimizers[0]},
        hash_leaves_out=LEAVE_OUT,
        arms=tuple(arms),
        started="2026-11-22T06:00:00Z",
        finished="2026-11-22T08:00:00Z",
        command="morphogen experiment synthetic.toml",
        machine="a synthetic one",
        versions={"torch": "2.13.0"},
    )


def spoil(result: ExperimentResult, level: str, seed: int | None, **changes: Any) -> ExperimentResult:
    """The same with fields of the arms of ``level`` (and ``seed``, if given) replaced; callables get the arm."""
    return result.model_copy(
        update={
            "arms": tuple(
                each.model_copy(
                    update={name: value(each) if callable(value) else value for name, value in changes.items()}
                )
                if each.arm.factors["pre"] == level and seed in (None, each.arm.seed)
                else each
                for each in result.arms
            )
        }
    )
