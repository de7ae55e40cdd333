"""Hostile text in every field of a lake, on every page and in every answer of the server, in logs and in reports."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from starlette.testclient import TestClient

from datalake import Lake
from orchestration.console.foreign import as_json, in_code, in_html, in_html_lines, in_markdown
from orchestration.experiment.analysis.analyse import analyse
from orchestration.experiment.report.markdown import to_markdown
from orchestration.reports.run_charts import Series, curves
from orchestration.reports.svg import drawing
from orchestration.serve import create_app
from orchestration.serve.logs import SafeFormatter
from orchestration.serve.pages.draw_lineage import Graph, Node, draw_graph
from orchestration.serve.pages.overview import Overviews
from tests.orchestration.console.test_hostile_text import HOSTILE, spoiled_lakes
from tests.orchestration.experiment.test_report import SPOILED
from tests.serve.lake_content import fill

NAMED = "restore|delete it|goes back to"  # what the errors of damaged objects advise: they are told, and are no bugs
WORST = HOSTILE + "<script>alert(1)</script>'\"&{{7*7}}[x](javascript:alert(1))`|$x$\udcff\U000e0041"

# What the objects of each kind are shown by.
PAGES = {
    "params": ["/params", "/params/tiny", "/params/tiny/1"],
    "specs": ["/params/tiny/2?before=1", "/params/tiny/1"],
    "datasets": ["/", "/datasets", "/datasets/grids", "/datasets/grids/1"],
    "manifests": ["/datasets/prose/1", "/datasets/grids/1"],
    "models": ["/", "/models", "/models/language-model", "/models/language-model/1"],
    "runs": ["/", "/runs", "/runs/language"],
    "pulses": ["/", "/runs/orphan"],
    "checkpoints": ["/runs/language"],
}
API = {
    "params": ["/params/tiny", "/params/tiny/versions", "/params/tiny/aliases"],
    "specs": ["/params/tiny", "/params/tiny/diff?old=1&new=2"],
    "datasets": ["/datasets/grids", "/datasets/grids/versions"],
    "manifests": ["/datasets/prose/versions/1"],
    "models": ["/models/language-model", "/models/language-model/versions/1/lineage"],
    "runs": ["/runs", "/runs/language", "/runs/language/metrics"],
    "pulses": ["/runs/orphan"],
}


def check_text(text: str, where: str) -> None:
    """Nothing that a browser or a terminal acts upon, no line of its own, no markup."""
    bad = {character for character in text if not character.isprintable() and character != "\n"}
    assert not bad, (where, bad)
    assert "\nFORGED" not in text, where
    assert "<script>alert" not in text, where


def test_pages_and_answers_show_every_string_of_the_lake_as_text(tmp_path: Path) -> None:
    """One server over a folder that is, one after the other, each of the spoiled lakes."""
    fill(Lake.open(str(tmp_path / "good")))
    lake = Lake.open(str(tmp_path / "lake"))
    app = create_app(lake, loopback_only=True)
    shown = 0
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        for what, _place in spoiled_lakes(tmp_path / "good", tmp_path / "lake", WORST):
            app.state.overviews = Overviews(lake)  # the last one would be kept for a moment
            for path in PAGES.get(what.split("/")[0], ()):
                page = client.get(path, headers={"Accept": "text/html"})
                assert page.status_code < 500 or re.search(NAMED, page.text), (path, what, page.text[-500:])
                check_text(page.text, f"{path} with hostile {what}")
                for drawn in re.findall(r"<svg.*?</svg>", page.text, re.S):
                    ElementTree.fromstring(drawn)
                shown += "FORGED" in page.text
            for path in API.get(what.split("/")[0], ()):
                answer = client.get(f"/api/v1{path}")
                assert answer.status_code < 500 or re.search(NAMED, answer.text), (path, what, answer.text[-500:])
                assert answer.content.isascii(), (path, what)
                json.loads(answer.content, parse_constant=pytest.fail)
    assert shown > 30, "the hostile text is shown, in many places"


def test_what_each_medium_would_act_upon() -> None:
    assert in_html("<b>&\"'\x00\u202e\n\udcff") == r"&lt;b&gt;&amp;&quot;&#x27;\x00\u202e\n\udcff"
    assert in_html_lines("a\tb\r\n<c>\x1b") == "a       b\n&lt;c&gt;\\x1b"
    assert in_markdown("a_b _c_ *d* [e](http://f.g) `h` | ~~i~~ $j$ <k> @l m@1") == (
        r"a_b \_c\_ \*d\* \[e\](http&#58;//f.g) \`h\` \| \~\~i\~\~ \$j\$ &lt;k&gt; @<!-- -->l m@1"
    )
    for text, expected in (
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("-1.5", "-1.5"),
        ("---", r"\---"),
        ("a\n# b", r"a\\n# b"),
    ):
        assert in_markdown(text) == expected
    assert (in_code("a|b"), in_code("a``b"), in_code("`")) == (r"`a\|b`", "``` a``b ```", "`` ` ``")
    document = {"a": [float("nan"), (float("inf"), -float("inf"))], "b": "\udcff\x7f\x00é", "c": {1.5: None}}
    assert json.loads(as_json(document), parse_constant=pytest.fail) == {
        "a": ["NaN", ["Infinity", "-Infinity"]], "b": "\udcff\x7f\x00é", "c": {"1.5": None},
    }  # fmt: skip
    assert as_json(document).isascii()


def test_figures_hold_text_only() -> None:
    graph = Graph((Node("model", WORST, f"/models/{WORST}/1"), Node("run", WORST, None)), ((0, 1),))
    figures = [draw_graph(graph, WORST), curves([Series(WORST, [(1.0, 2.0), (2.0, 1.0)])], WORST, WORST, WORST)]
    with drawing(WORST, WORST, WORST) as draw:
        draw.axes.plot([1, 2], [1, 2], label=WORST)
        draw.axes.legend()
    figures.append(draw.svg)
    for figure in figures:
        check_text(figure, "a figure")
        assert "FORGED" in figure
        root = ElementTree.fromstring(figure)
        assert not [each for each in root.iter() if each.tag.endswith("script")]
        assert not [name for each in root.iter() for name in each.attrib if name.startswith("on")]


def test_a_summary_for_a_pull_request_is_text_only() -> None:
    result = SPOILED.model_copy(update={"command": WORST, "machine": WORST, "name": WORST})
    text = to_markdown(result, analyse(result).model_copy(update={"verdict": WORST}))
    plain = re.sub(r"(`+) ?.*? ?\1", "", re.sub(r"\\.", "", text))  # without escapes and without code
    check_text(plain, "Markdown")
    assert "[x](javascript:" not in plain
    assert "|$x$" not in plain


@pytest.mark.parametrize("name", ["uvicorn.access", "uvicorn.error", "morphogen.serve"])
def test_a_log_has_one_line_a_message(name: str) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    try:
        raise ValueError(WORST)
    except ValueError as error:
        problem = error
    for trace in (None, (ValueError, problem, problem.__traceback__)):
        handler.emit(logging.LogRecord(name, logging.INFO, "x", 1, "%s said %s", ("a", WORST), trace))
    lines = written.getvalue().split("\n")
    check_text("\n".join(lines[:2]).replace("<script>alert", ""), "the log")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("FORGED")]
    assert sum(line.startswith("INFO") for line in lines) == 2
