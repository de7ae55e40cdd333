"""`morphogen lattice`, and generation, preview and healing with weights that only the lake has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datalake import Lake, heal_dataset
from datalake.shards.manifest import Manifest
from generator import SpecGenerator, parse_spec
from generator.errors import WeightsError
from generator.lattice import weights
from orchestration.cli import main
from orchestration.generation.recompute import lake_generator
from orchestration.generation.worker import ShardWorker, synthetic_source
from orchestration.jobs import resume_run
from tests.ray_fixtures import ROOT, toml_of
from tests.trainer.lattice.lattices import RUN
from trainer import load_metrics
from trainer.lattice.train_config import parse_lattice_config
from trainer.lattice.whole_file import WHOLE

FIELDS = {**RUN, "steps": 3, "checkpoint_every": 2, "eval_every": 3, "quantise_fraction": 0.5}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a trained lattice's lake and its report."""
    folder = tmp_path_factory.mktemp("lattice")
    file = folder / "small.toml"
    file.write_text(toml_of({key: value for key, value in FIELDS.items() if value is not None}))
    more = ("--report", folder / "page.html", "--threads", "1", "--lake", folder / "lake")
    assert call("lattice", "train", file, "--run", "small", *more) == 0
    return folder


def test_a_lattice_is_trained_scored_and_drawn(trained, capsys):
    lake = trained / "lake"
    page = (trained / "page.html").read_text()
    assert "data:image/gif;base64," in page
    assert page.count("<svg") == 2
    capsys.readouterr()
    assert call("lattice", "evaluate", "grown@1", "--json", "--lake", lake) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) >= {"overlap", "persists", "recovers", "without_links", "constant", "by_time"}
    assert call("lattice", "evaluate", "grown@1", "--sparse", "0", "--json", "--lake", lake) == 0
    sparse = json.loads(capsys.readouterr().out)
    assert 0 < sparse.pop("computed") < 1
    assert sparse == scores
    for name, magic in (("a.gif", b"GIF89a"), ("a.png", b"\x89PNG")):
        assert call("lattice", "play", "grown@1", "-o", trained / name, "--steps", "5", "-n", "2", "--lake", lake) == 0
        assert (trained / name).read_bytes().startswith(magic)
    opened = Lake.open(str(lake))
    assert opened.runs.get("small").status == "finished"
    assert opened.models.get("grown@1").run == "small"
    assert resume_run(opened, "small", opened.runs.get("small").state, {})["model"] == "grown@1"


def test_a_profile_is_a_trace_and_a_table(trained, capsys):
    trace, short = trained / "trace.json", trained / "short.toml"  # every event of a step is in the trace
    fields = {**FIELDS, "batch": 1, "time": [2, 2], "eval_volumes": 1}
    short.write_text(toml_of({key: value for key, value in fields.items() if value is not None}))
    assert call("lattice", "train", short, "--profile", trace, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"parameters", "gradients", "moments", "activations", "peak"} <= set(found["bytes"])
    assert json.loads(trace.read_text())["traceEvents"]


def test_mistakes_are_one_line(trained, tmp_path, capsys):
    file = tmp_path / "bad.toml"
    for fields, said in (
        ({**FIELDS, "target": {"kind": "growth", "extent": 9}}, "target.extent = 9: larger than the lattice"),
        ({**FIELDS, "lattice": {**RUN["lattice"], "types": 1000}}, "types = 1000"),
    ):
        file.write_text(toml_of({key: value for key, value in fields.items() if value is not None}))
        assert call("lattice", "train", file, "--lake", tmp_path / "lake") == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert said in line
    both = ("--workers", "2", "--threads", "1", "--lake", trained / "lake")
    assert call("lattice", "train", trained / "small.toml", *both) == 2
    assert call("lattice", "evaluate", "grown@1", "--sparse", "-1", "--lake", trained / "lake") == 2
    assert call("lattice", "evaluate", "nothing@1", "--lake", trained / "lake") == 2
    assert call("lattice", "play", "grown@1", "-o", tmp_path / "no" / "a.gif", "--lake", trained / "lake") == 2


def test_the_lake_brings_the_weights_to_whoever_computes(trained, monkeypatch):
    lake = Lake.open(str(trained / "lake"))
    digest = lake.models.get("grown@1").files[WHOLE]["sha256"]
    monkeypatch.setattr(weights, "_PROVIDED", {})
    fields = {"family": "lattice", "weights": digest, "grid": [4, 4, 4], "seq_len": 40}
    with pytest.raises(WeightsError, match=digest):
        SpecGenerator().table(fields, 1, 0, 8)
    source = synthetic_source(parse_spec(fields), 1, 8)
    ref, written, _ = ShardWorker(lake, source, "auto", 1).make(0, 8)
    assert written
    manifest = Manifest.build(source, [ref], seq_len=40, vocab_size=258, content_digest="0" * 64)

    monkeypatch.setattr(weights, "_PROVIDED", {})
    key = manifest.shards[0].key
    (trained / "lake" / key).unlink()
    report = heal_dataset(lake.store, manifest, lake_generator(lake.store.uri), lake.system)
    assert (len(report.repaired), report.lost) == (1, ())

    monkeypatch.setattr(weights, "_PROVIDED", {})
    spec = trained / "lattice-spec.toml"
    spec.write_text(toml_of(fields))
    assert call("preview", spec, "-o", trained / "p.png", "-n", "2", "--lake", lake.store.uri) == 0
    spec.write_text(toml_of({**fields, "weights": "0" * 64}))
    assert call("preview", spec, "-o", trained / "p.png", "--lake", lake.store.uri) == 2


@pytest.mark.parametrize("file", sorted((ROOT / "experiments" / "lattice").glob("*.toml")), ids=lambda file: file.stem)
def test_the_shipped_configs_are_read(file):
    import tomllib

    assert parse_lattice_config(tomllib.loads(file.read_text())).publish == file.stem


@pytest.mark.soak
def test_two_workers_of_ray_train_as_one_process(trained, ray_cluster, capsys):  # noqa: ARG001 - the workers need it
    """The losses up to the rounding to 8 bits, which tells last bits apart; then the record is enough to go on with."""
    lake = trained / "lake"
    more = ("--workers", "2", "--lake", lake)
    assert call("lattice", "train", trained / "small.toml", "--run", "two", *more) == 0
    opened = Lake.open(str(lake))
    together, alone = ([row["loss"] for row in load_metrics(opened, run) if "loss" in row] for run in ("two", "small"))
    assert len(together) == len(alone) == 3
    assert together[0] == pytest.approx(alone[0], rel=1e-4)
    state = opened.runs.get("two").state
    assert state["settings"]["workers"] == 2
    assert resume_run(opened, "two", state, {})["step"] == 3
    capsys.readouterr()
    assert call("lattice", "train", trained / "small.toml", "--run", "three", "--workers", "3", "--lake", lake) == 2
    assert "3 ranks" in capsys.readouterr().err
