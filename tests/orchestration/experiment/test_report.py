"""The report says the verdict first, hides no failure, needs nothing but itself, and refuses in the open."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from orchestration.experiment.analysis.analyse import Analysis, analyse
from orchestration.experiment.analysis.statistics import minimum_detectable_effect
from orchestration.experiment.report.figures import draw
from orchestration.experiment.report.markdown import to_markdown
from orchestration.experiment.report.page import render, write_report
from orchestration.experiment.result import ExperimentResult
from tests.orchestration.experiment.builder import experiment, spoil

CLEAN = experiment(
    {"nca": -0.02, "shuffled": 0.0},
    optimizers=("adamw", "muon"),
    interaction={("nca", "muon"): 0.02},
    curve_noise=True,
).model_copy(
    update={"minimum_detectable_effect": minimum_detectable_effect(3, 0.002, comparisons=4, source="pilot <run>")}
)
SPOILED = spoil(
    spoil(CLEAN, "shuffled", 2, checks=lambda arm: arm.checks | {"eval_digest": "d" * 64}),
    "nca", 3, status="failed", error="loss <spiked> at step 31", curve=(), final_loss=None,
)  # fmt: skip
VOID = {"area", "br", "img", "input", "link", "meta", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """Checks that elements nest, and keeps what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figures, self.references, self.tags = [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.references += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        if tag == "svg":
            self.figures.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, _, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def clean():
    return render(CLEAN, analyse(CLEAN))


@pytest.fixture(scope="module")
def spoiled():
    return render(SPOILED, analyse(SPOILED))


def test_the_page_is_well_formed_and_stands_alone(clean):
    page = Page(clean)
    assert all(reference.startswith("#") for reference in page.references)
    assert not page.tags & {"script", "link", "iframe"}
    assert len(page.figures) == 1 + 1 + 4 + 1  # baseline, controls, two panels of two, frames
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in page.figures)


def test_the_page_begins_with_the_verdict_and_has_every_part(clean):
    verdict = analyse(CLEAN).verdict
    assert clean.index(verdict) < clean.index("<h2>")
    parts = re.findall("<h2>(.*?)</h2>", clean)
    assert parts == [
        "Against the baseline",
        "Against controls",
        "Over the training",
        "To the baseline’s final loss",
        "What each factor does",
        "Rules inferred in context",
        "Arms and what they cost",
        "Every run",
        "Learning rates tried",
        "Configurations",
        "To reproduce",
    ]
    assert CLEAN.command in clean
    assert "pilot &lt;run&gt;" in clean
    assert all(f"{arm.name} (finished)" in clean for arm in CLEAN.arms)
    assert "class=alarm" not in clean


def test_the_same_experiment_makes_the_same_page(clean):
    assert render(CLEAN, analyse(CLEAN)) == clean


def test_refused_and_failed_arms_are_said_before_any_number(spoiled):
    Page(spoiled)
    first = spoiled.index("<h2>")
    for said in ("Not compared", "eval_digest = ddd", "No verdict: a run failed", "loss &lt;spiked&gt; at step 31"):
        assert spoiled.index(said) < first
    row = re.search(r"<tr><td>shuffled → adamw</td><td>none → adamw</td>(.*?)</tr>", spoiled).group(1)
    assert "refused" in row
    assert not re.search(r"\d\.\d", row)
    assert not any("shuffled" in figure["aria-label"] for figure in Page(spoiled).figures)


def test_a_page_can_be_made_of_nothing_but_failures():
    lost = CLEAN.model_copy(
        update={
            "arms": tuple(
                each.model_copy(update={"status": "missing", "curve": (), "final_loss": None}) for each in CLEAN.arms
            ),
            "minimum_detectable_effect": None,
        }
    )
    page = render(lost, analyse(lost))
    Page(page)
    assert "0 of 18" in page
    assert "nothing was said before the runs" in page


@pytest.mark.parametrize("arms", [0, 1, 3])
def test_an_experiment_that_has_hardly_begun_has_a_page(arms):
    begun = CLEAN.model_copy(update={"arms": CLEAN.arms[:arms]})
    page = render(begun, analyse(begun))
    Page(page)
    assert "No verdict: no arm was compared with a baseline." in page


def test_what_was_written_can_be_read_again(tmp_path):
    analysis = analyse(SPOILED)
    html_path, json_path = write_report(SPOILED, analysis, tmp_path / "new" / "folder")
    values = json.loads(json_path.read_text())
    assert ExperimentResult.model_validate(values["result"]) == SPOILED
    assert Analysis.model_validate(values["analysis"]) == analysis
    page = html_path.read_text()
    assert page == render(SPOILED, analysis)
    folder = html_path.parent
    assert (folder / "report.md").read_text() == to_markdown(SPOILED, analysis)
    files = sorted((folder / "figures").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.svg" for name in draw(SPOILED, analysis).by_name())
    assert "differences.svg" in [file.name for file in files]
    assert len(files) == len(Page(page).figures)
    for file in files:
        root = ElementTree.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in file.read_text(), "a file has no page to take its colours from"


def test_markdown_has_verdict_problems_and_tables():
    text = to_markdown(SPOILED, analyse(SPOILED))
    assert text.startswith("### synthetic\n\n**No")
    assert "**Problems (refused)**" in text
    assert "loss &lt;spiked&gt; at step 31" in text
    assert "<spiked>" not in text
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
        assert set(block.splitlines()[1]) == set("| -"), "without its rule a block is no table"
    assert f"`{SPOILED.command}`" in text
