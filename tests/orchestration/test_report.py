"""The report: one page that needs nothing but itself, says its verdict first, and gets its numbers right."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from orchestration.pipeline.demo_report import verdict
from orchestration.reports.curves import heldout_points, tokens_to_reach, training_points
from orchestration.reports.demo_charts import gate_chart
from orchestration.reports.demo_page import ReportPage, render
from orchestration.reports.picture import trajectory_sheet

VOID = {"meta", "img", "link", "br", "path", "use", "rect", "stop"}


def records(start: float, end: float, steps: int = 80, batch: int = 4_096) -> list[dict]:
    """A plausible curve: losses that fall from ``start`` to ``end``, with an evaluation every tenth step."""
    curve = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * np.exp(-4 * step / steps) + 0.03 * np.sin(step)
        curve.append({"step": step, "tokens": step * batch, "loss": float(loss)})
        if step % 10 == 0:
            curve.append({"step": step, "eval": {"stdlib-heldout@1": {"loss": float(loss) + 0.05}}})
    return curve


def tree(name: str, parents: list[dict]) -> dict:
    dataset = {"ref": "code@1", "digest": "d" * 64, "spec_digest": "5" * 64, "params": None}
    dataset["params"] = {"ref": "code@1", "digest": "e" * 64} if not parents else None
    model = {"ref": f"{name}@1", "digest": "a" * 64}
    return {"model": model, "run": {"name": f"run-{name}"}, "datasets": [dataset], "parents": parents}


def page(treated: float = 1.5, *, passed: bool = True, name: str = "transferred") -> ReportPage:
    losses = {"scratch": 1.6, name: treated}
    curves = {arm: records(5.5, loss) for arm, loss in losses.items()}
    arms = [
        {
            "arm": arm,
            "model": f"demo-{arm}@1",
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "bits_per_byte": loss / np.log(2),
            "loss_difference": loss - 1.6,
            "bits_per_byte_difference": (loss - 1.6) / np.log(2),
            "tokens": 327_680,
            "parameters": 467_840,
        }
        for arm, loss in losses.items()
    ]
    outcome = {
        "probe": {"sentence": "After 9 steps a model answers 40% from scratch; 75% with attention from <chains>."},
        "verdict": verdict(1.6, treated, passed),
        "gate": {"loss": 0.8 if passed else 2.4, "entropy": 1.8, "passed": passed},
        "arms": arms,
        "params": {"name": "code@1", "digest": "e" * 64},
        "datasets": [{"name": "code@1", "digest": "d" * 64, "tokens": 4_194_304}],
        "lake": "/tmp/lake",
        "seconds": 500.0,
        "machine": "x86_64, 2 cores, Python 3.11.7",
        "versions": {"ray": "2.60.0"},
    }
    frames = np.random.default_rng(0).integers(0, 4, (2, 3, 6, 6), dtype=np.uint8)
    return ReportPage(
        outcome=outcome,
        probe_chart=gate_chart(records(5.5, 0.8), 1.9),
        spec={"family": "nca"},
        curves=curves,
        synthetic_curve=records(5.5, 0.8),
        configs={"scratch": {"steps": 80}},
        pictures=trajectory_sheet(frames, [0.2, 0.3], 4),
        lineages={"scratch": tree("scratch", []), name: tree(name, [tree("nca", [])])},
    )


@pytest.fixture(scope="module")
def text() -> str:
    """The page of a pair of runs in which pre-pre-training helped."""
    return render(page())


class Outline(HTMLParser):
    """Every tag with its attributes; complains where one closes that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(text):
    outline = Outline(text)
    assert outline.open == []
    names = {tag for tag, _ in outline.tags}
    assert not names & {"script", "link", "iframe"}
    for _, attributes in outline.tags:
        for field in ("src", "href", "xlink:href"):
            assert (attributes.get(field) or "#").startswith(("#", "data:"))
    assert not re.findall(r"url\((?!#)|@import", text)
    assert "<title>Morphogen" in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_every_picture_has_words_and_every_name_in_it_is_its_own(text):
    outline = Outline(text)
    pictures = [attributes for tag, attributes in outline.tags if tag in ("img", "svg")]
    assert len(pictures) == 5
    assert all(len(attributes.get("alt") or attributes.get("aria-label") or "") > 20 for attributes in pictures)
    ids = [attributes["id"] for _, attributes in outline.tags if "clip" in attributes.get("id", "")]
    clips = [attributes["id"] for tag, attributes in outline.tags if tag == "clippath"]
    assert len(clips) == len(set(clips)) >= 3
    assert len(ids) == len(set(ids))


def test_curves_take_their_colours_from_the_page(text):
    figures = "".join(re.findall(r"<figure>.*?</figure>", text, re.DOTALL))
    assert {"--ink", "--faint", "--line", "--gate", "--arm0", "--arm1"} <= set(re.findall(r"var\((--\w+)\)", figures))
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", figures)


def test_the_verdict_comes_first_and_the_numbers_follow(text):
    body = text[text.index("<body>") :]
    assert body.index("75% with attention from &lt;chains&gt;") < body.index("<svg")
    assert body.index("<svg") < body.index("Pre-pre-training helped in this pair of runs")
    assert body.index("Pre-pre-training helped in this pair of runs: 6.25% lower") < body.index("<table>")
    for shown in ("−6.25 %", "−0.1000", "−0.1443", "1.5000 against 1.6000", "one seed", "code@1", "d" * 64, "run-nca"):
        assert shown in text


@pytest.mark.parametrize(
    ("treated", "passed", "says"),
    [
        (1.5, True, "helped in this pair of runs: 6.25% lower"),
        (1.7, True, "did not help at this size: 6.25% higher"),
        (1.601, True, "made no difference that one pair of runs could show"),
        (1.5, False, "synthetic task was not learned, so nothing can be concluded"),
    ],
)
def test_the_verdict_claims_no_more_than_one_pair_of_runs_shows(treated, passed, says):
    text = render(page(treated, passed=passed))
    assert says in text
    assert ("not learned" in text) == (not passed)


def test_what_the_lake_calls_things_is_never_markup():
    text = render(page(name="<b>&arm"))
    assert "<b>&arm" not in text
    assert "&lt;b&gt;&amp;arm" in text


def test_the_same_data_make_the_same_page(text):
    assert render(page()) == text


def test_tokens_to_a_loss_are_interpolated_or_never():
    curve = [(100.0, 3.0), (200.0, 2.0), (300.0, 1.5)]
    assert tokens_to_reach(curve, 2.5) == pytest.approx(150)
    assert tokens_to_reach(curve, 1.5) == pytest.approx(300)
    assert tokens_to_reach(curve, 1.4) is None
    assert tokens_to_reach(curve, 3.5) == 100
    assert tokens_to_reach([], 1.0) is None


def test_speed_up_is_given_free_and_charged():
    faster = page(1.4)
    budget, level = heldout_points(faster.curves["scratch"])[-1]
    reached = tokens_to_reach(heldout_points(faster.curves["transferred"]), level)
    charged = reached + training_points(faster.synthetic_curve)[-1][0]
    assert f"{budget / reached:.2f}×, with pre-pre-training charged {budget / charged:.2f}×" in render(faster)
    assert "<b>never</b>" in render(page(1.8))


def test_points_are_read_off_the_records():
    held_out = heldout_points(records(5.5, 1.6))
    assert [tokens for tokens, _ in held_out] == [step * 4_096 for step in range(10, 81, 10)]
    assert len(training_points(records(5.5, 1.6))) == 80
    flat = [{"step": step, "tokens": step, "loss": 2.0} for step in range(1, 30)]
    assert training_points(flat) == [(step, 2.0) for step in range(1, 30)]
    assert heldout_points([]) == []
