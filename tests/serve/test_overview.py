"""The first page: what is running and how fast, what failed and why, what is new, and names that fit their boxes."""

from __future__ import annotations

import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from datalake import Lake
from orchestration.runs.owner import this_process
from orchestration.runs.speed import Speed
from orchestration.runs.view import speed_text
from orchestration.serve.pages.data import read_sequences
from orchestration.serve.pages.draw_frames import MAX_PICTURES
from orchestration.serve.pages.draw_lineage import _BOX_W, fitted
from orchestration.serve.pages.overview import Overviews
from tests.serve.lake_content import SPEC, add_run, add_synthetic, put

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


def test_what_is_running_what_failed_and_what_is_new(tmp_path: Path):
    lake = Lake.open(str(tmp_path / "lake"))
    put(lake, "tiny", SPEC)
    data = add_synthetic(lake, "grids", SPEC, 8, params="tiny@1")
    for name, parent, loss in (("a", "study", 2.0), ("b", "study", 1.5), ("c", None, 1.0)):
        lake.runs.start(name, "train", {}, {}, about={"parent": parent} if parent else {}).finish({})
        for version in (1, 2):
            scores = {data: {"loss": loss + 0.1 * version}}
            lake.models.publish(
                f"model-{name}", {"config.json": bytes([version])}, run=name, datasets=[data], metrics=scores
            )
    running = lake.runs.start("busy", "train", {}, {}, about={"holder": this_process()})
    running.send_heartbeat(1, {"done": 10, "of": 70, "unit": "steps", "note": "", "per_second": 0.5})
    failed = lake.runs.start("broken", "train", {}, {})
    failed.fail(f"{tmp_path}/lake/x: no such thing")
    (tmp_path / "lake" / "runs" / "damaged").mkdir()
    (tmp_path / "lake" / "runs" / "damaged" / "00000001.json").write_bytes(b"{")
    found = Overviews(lake).get()
    assert found.counts == {"params": 1, "datasets": 1, "models": 3, "runs": 6}
    assert [run.name for run in found.running] == ["busy"]
    assert [(run.name, run.error) for run in found.troubled] == [("broken", "LAKE/x: no such thing")]
    assert len(found.notes) == 1
    assert str(tmp_path) not in found.notes[0]
    assert len(found.datasets[0].pictures) > 1
    (score,) = next(model.scores for model in found.models if model.version.name == "model-a")
    assert (score.other, score.why) == ("model-b@2", "of the same study"), "not model-c, which is better"
    (score,) = next(model.scores for model in found.models if model.version.name == "model-c")
    assert score.why == "best other on the same data"


def test_a_model_alone_is_compared_with_nothing(tmp_path: Path):
    lake = Lake.open(str(tmp_path / "lake"))
    data = add_synthetic(lake, "grids", SPEC, 8)
    add_run(lake, "only", [data])
    (model,) = Overviews(lake).get().models
    assert [score.other for score in model.scores] == [None]


def test_who_looks_at_once_waits_for_one_gathering(tmp_path: Path):
    overviews = Overviews(Lake.open(str(tmp_path / "lake")))
    assert overviews.get() is overviews.get()


def test_speed_is_of_the_last_minute():
    now = [0.0]
    speed = Speed(lambda: now[0])
    assert speed.see(0, "steps") is None
    for _ in range(200):
        now[0] += 1.0
        rate = speed.see(now[0] * 2, "steps")
    assert rate is not None
    assert abs(rate - 2.0) < 1e-9
    for _ in range(100):
        now[0] += 1.0
        rate = speed.see(400 + (now[0] - 200) * 5, "steps")
    assert rate is not None
    assert abs(rate - 5.0) < 1e-9, "what was a minute ago is forgotten"
    assert speed.see(1, "steps") is None, "it began anew"
    now[0] += 10
    assert speed.see(1, "shards") is None, "another unit"
    assert Speed(time.monotonic).see(1, "x") is None


def test_speed_in_words():
    def text(rate: float | None, done: float = 10, of: float = 70) -> str:
        return speed_text({"done": done, "of": of, "unit": "steps", "note": "", "per_second": rate})

    assert text(2.0) == "2 steps/s, 30 s left"
    assert text(0.05) == "3 steps/min, 20 min left"
    assert text(0.0001) == "0.006 steps/min, 7 days left"
    assert text(2.0, 80) == "2 steps/s, 0 s left"
    assert text(None) == ""
    assert speed_text({}) == ""


@settings(deadline=None)
@given(NAMES, st.sampled_from(["", "@1", "@12345678", "@" + "alias-of-many-letters-" * 5]))
def test_names_fit_their_boxes(name: str, version: str):
    import matplotlib

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 13)
    shown = fitted(name, version, _BOX_W - 18)
    assert font.getlength(shown) <= _BOX_W - 18
    assert shown
    if len(version) < 10:
        assert shown.endswith(version)
    if font.getlength("M") * len(name + version) < _BOX_W - 18:
        assert shown == name + version


def test_a_sequence_of_thousands_of_frames_is_drawn_in_part(tmp_path: Path):
    lake = Lake.open(str(tmp_path / "lake"))
    add_synthetic(lake, "frames", {**SPEC, "grid": [2, 2], "colors": 2, "seq_len": 3000}, 2)
    (drawn,) = read_sequences(lake, lake.datasets.manifest("frames@1"), 0, 1)
    assert (len(drawn.drawing.pictures), drawn.drawing.frames) == (MAX_PICTURES, 1000)
