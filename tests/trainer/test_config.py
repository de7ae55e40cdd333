"""A bad configuration is one line that names field, value and what is allowed."""

import tomllib

import pytest

from trainer.config import TrainConfig, parse_config
from trainer.errors import ConfigError

TOML = """
steps = 100
batch_sequences = 8
eval = ["held@1"]
publish = "small"
[model]
depth = 2
[[data]]
dataset = "code@1"
[optimizer]
lr = 3e-3
betas = [0.9, 0.99]
[schedule]
name = "wsd"
warmup_steps = 10
[transfer]
source = "pre@1"
what = "all"
"""


def test_toml_round_trip() -> None:
    config = parse_config(tomllib.loads(TOML))
    assert config.optimizer.betas == (0.9, 0.99)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stepz": 5}, "stepz: unknown field"),
        ({"steps": 0}, "steps = 0: input should be greater than or equal to 1"),
        ({"data": []}, "data = (): tuple should have at least 1 item"),
        ({"model": {"depth": 2, "heads": 3}}, "model: heads = 3: dim = 128 must be a multiple of 2·heads"),
        ({"model": {"depth": 2, "heads": 4, "kv_heads": 3}}, "kv_heads = 3: must divide heads = 4"),
        ({"schedule": {"warmup_steps": 101}}, "schedule.warmup_steps = 101: must not exceed steps = 100"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer: betas = [0.9, 1.0]"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr = nan"),
        ({"transfer": {"source": "a@1", "what": "mlps"}}, "transfer.what = 'mlps'"),
        ({"transfer": {"source": "a@1", "freeze_steps": 101}}, "transfer.freeze_steps = 101: must not exceed steps"),
        ({"transfer": {"source": "a@1", "what": "stats", "decay_toward": "source"}}, "moves no weights to decay to"),
        ({"transfer": None, "optimizer": {"name": "hybrid"}}, "'hybrid': needs a transfer"),
        ({"optimizer": {"muon": {"ns_steps": 6}}}, "optimizer: muon: set, but name = 'adamw' does not read it"),
        ({"data": [{"dataset": "a@1", "share": "front_loaded"}]}, "until_fraction = 1.0: a front-loaded share ends"),
        ({"data": [{"dataset": "a@1", "until_fraction": 0.5}]}, "a constant share has no end"),
        ({"data": [{"dataset": "a@1", "share": "annealed"}]}, "data: every share ends"),
        ({"keep_every": 200}, "keep_every = 200: needs keep_last"),
        ({"keep_every": 300, "keep_last": 1}, "must be a multiple of checkpoint_every = 200"),
    ],
)
def test_problems_in_one_line(change: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**tomllib.loads(TOML), **change})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_rank_fills_its_micro_batches() -> None:
    config = parse_config({**tomllib.loads(TOML), "micro_batches": 3})
    assert config.check_world(2) == 4
    with pytest.raises(ConfigError, match=r"micro_batches = 3: a rank has 2 sequences a step"):
        config.check_world(4)


def test_world_must_divide_the_batch() -> None:
    config = parse_config(tomllib.loads(TOML))
    assert [config.check_world(world) for world in (1, 2, 4, 8)] == [8, 4, 2, 1]
    with pytest.raises(ConfigError, match=r"batch_sequences = 8: must be a multiple of the 3 ranks"):
        config.check_world(3)
