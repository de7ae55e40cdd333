"""The pages as HTML: titles, alternative texts, keyboard, links, and nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from tests.serve.conftest import Site

ALIAS = re.compile(r"/(stable|good|a)$")  # an alias's page is its version's, title included
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """A parsed page: elements as (tag, attributes), text of title and headings, nesting checked on the way."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages(site: Site) -> dict[str, httpx.Response]:
    """Every page that the first one leads to, and more of some."""
    found: dict[str, httpx.Response] = {}
    waiting = ["/", "/params/tiny?before=2&after=1", "/datasets/volumes/1/sequences?first=4"]
    with site.servers[0].client(site.tokens["reader"]) as browser:
        while waiting:
            path = waiting.pop().partition("#")[0]
            if path in found or path.startswith("/api/"):
                continue
            found[path] = browser.get(path, headers={"Accept": "text/html"})
            assert found[path].status_code == 200, path
            waiting += re.findall(r'(?:href)="(/[^"]*)"', found[path].text.replace("&amp;", "&"))
    return found


def parsed(pages: dict[str, httpx.Response]) -> Iterator[tuple[str, Page]]:
    for path, response in pages.items():
        yield path, Page(response.text)


def test_the_first_page_leads_to_everything(pages: dict[str, httpx.Response]):
    for path in (
        "/params", "/params/tiny", "/params/tiny/2", "/params/tiny/stable", "/datasets/grids", "/datasets/grids/1",
        "/datasets/grids/1/sequences", "/datasets/grids/1/sequences?first=32", "/datasets/prose/1",
        "/models/language-model/1", "/models/pre-pre-model/1", "/runs/language", "/api",
    ):  # fmt: skip
        assert path in pages


def test_every_page_has_a_title_a_heading_and_a_language(pages: dict[str, httpx.Response]):
    titles = {}
    for path, page in parsed(pages):
        (title,) = [text for text in page.texts["title"] if text.endswith("· Morphogen")]
        titles.setdefault(title, []).append(path)
        assert len(page.texts["h1"]) == 1
        assert page.all("html")[0]["lang"] == "en"
        assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    alone = [{path.partition("?")[0] for path in paths} for paths in titles.values()]
    assert all(len({path for path in paths if not ALIAS.search(path)}) <= 1 for paths in alone), titles


def test_pictures_have_words(pages: dict[str, httpx.Response]):
    images = charts = 0
    for _path, page in parsed(pages):
        for image in page.all("img"):
            images += 1
            assert image["alt"]
            assert image["width"]
            assert image["height"]
            assert (image["src"] or "").startswith("data:image/png;base64,")
        for svg in page.all("svg"):
            charts += 1
            assert svg.get("aria-label") or svg.get("aria-hidden") == "true"
    assert images > 50
    assert charts > 10


def test_the_keyboard_reaches_everything(pages: dict[str, httpx.Response]):
    for path, page in parsed(pages):
        order = [(tag, at) for tag, at in page.elements if tag in ("a", "button", "input", "select", "summary")]
        assert order[0] == ("a", {"class": "skip", "href": "#main"}), path
        assert page.all("main")[0]["id"] == "main"
        assert all(at.get("tabindex") in (None, "0", "-1") for _, at in page.elements)
        for tag, at in page.elements:
            if "wide" in (at.get("class") or "").split():  # what scrolls sideways must scroll by keyboard, too
                assert at["tabindex"] == "0", path
                assert at.get("aria-label") or at.get("aria-labelledby")
            if tag == "a" and "href" in at:
                assert at["href"]
        assert ":focus-visible" in page.texts["style"][0]
        ids = [at["id"] for _, at in page.elements if at.get("id")]
        assert len(ids) == len(set(ids)), path
        headers = [at for tag, at in page.elements if tag == "th"]
        assert all(at.get("scope") in ("row", "col") for at in headers)


def test_pages_load_nothing_and_run_only_their_own(pages: dict[str, httpx.Response]):
    nonces = set()
    for path, response in pages.items():
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
        assert nonce
        nonces.add(nonce[1])
        page = Page(response.text)
        assert all(at.get("nonce") == nonce[1] for tag in ("script", "style") for at in page.all(tag))
        assert not any("style" in at or any(name.startswith("on") for name in at) for _, at in page.elements), path
        for _, at in page.elements:
            for name in ("src", "href", "action", "data"):
                value = at.get(name) or "#"
                assert value.startswith(("/", "#", "?", "data:")), value
    assert len(nonces) == len(pages)


def test_the_play_control_finds_what_it_plays(pages: dict[str, httpx.Response]):
    """``play.js`` hides nothing that a page without scripts needs, and finds its parts in every section."""
    played = volumes = 0
    for path, response in pages.items():
        parts = re.findall(r"<section class=\"sequence\".*?</section>", response.text, re.S)
        for section in map(Page, parts):
            (at,) = section.all("section")
            if "data-player" not in at:
                assert not section.all("button"), path
                continue
            played += 1
            (stage,) = [div for div in section.all("div") if (div.get("class") or "").split()[0] == "stage"]
            assert "hidden" in stage, "shown by the script"
            slider, *slices = section.all("input")
            assert [each["data-slices"] for each in slices] == ["4"] * ("volume" in stage["class"]), path
            volumes += len(slices)
            first, *frames = section.all("img")
            assert (slider["type"], slider["max"]) == ("range", str(len(frames) - 1)), path
            assert len(section.all("li")) == len(frames) > 1
            assert first["src"] == frames[0]["src"]
            assert (len(section.all("button")), len(section.all("output"))) == (1, 1)
        if parts:
            assert any("data-player" in script for script in Page(response.text).texts["script"]), path
    assert played > 10
    assert volumes > 1


def test_what_people_wrote_is_shown_not_run(pages: dict[str, httpx.Response]):
    prose = pages["/datasets/prose/1"].text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in prose
    assert "<script>alert" not in prose


def test_pages_show_what_they_are_for(pages: dict[str, httpx.Response]):
    assert "wider, and only lively rules" in pages["/params/tiny"].text
    home = pages["/"].text
    assert 'href="/runs/orphan">orphan</a> <span class="tag lost">lost' in home
    assert "3 of 10 shards, 2 actors" in home
    assert "Loss 1.7000 on prose@1" in home
    assert "First sequence of grids@1, step 2" in home
    assert "hidden" in pages["/params/tiny"].text
    grids = pages["/datasets/grids/1"].text
    assert "Scores: normalised gzip-int32-v1 ratio" in grids
    assert 'class="band"' in grids
    assert "Frame 1 of 11, step 2" in grids
    assert 'type="range"' in grids
    graph = pages["/models/language-model/1"].text
    for ref in ("language-model@1", "pre-pre-model@1", "grids@1", "tiny@2"):
        assert ref in graph
    assert "dataset grids@1 comes from parameters tiny@2" in graph
    assert "held-out prose@1" in pages["/runs/language"].text
    assert "3 of 10 shards, 2 actors" in pages["/runs"].text
    assert 'tag lost">lost</span> generate, a stage of <a href="/runs/language">' in pages["/runs/orphan"].text
    assert "key: data/0/000000000000.parquet, problem: missing" in pages["/runs/language"].text
    assert "reason: the store did not answer, seconds: 4.5" in pages["/runs/language"].text
    assert "time downwards" in pages["/datasets/lines/1"].text


def test_errors_are_pages_for_a_browser(site: Site):
    with site.servers[0].client(site.tokens["reader"]) as browser:
        for path, status in (("/params/nothing", 404), ("/nowhere", 404), ("/datasets/grids/1/sequences?first=x", 422)):
            answer = browser.get(path, headers={"Accept": "text/html"})
            assert answer.status_code == status
            assert Page(answer.text).texts["h1"][0].startswith(str(status))
            assert browser.get(path).headers["content-type"] == "application/problem+json"
