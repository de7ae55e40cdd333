"""Headless Chromium on real pages: the policy breaks nothing, the play control works.

What the script finds in the page, and what the policy lets it do, is read without a browser in ``test_pages``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import orchestration.serve
from orchestration.reports.templates import environment
from orchestration.serve.pages.draw_frames import Drawing, picture
from tests.serve.conftest import Site

TEMPLATES = Path(orchestration.serve.__file__).parent / "templates"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

pytestmark = pytest.mark.soak


def chromium(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM, "no chromium: apt-get install chromium"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_the_play_control_works_under_the_policy(open_site: Site, tmp_path: Path):
    done = chromium(tmp_path, f"{open_site.servers[0].url}/datasets/grids/1/sequences", "--dump-dom")
    assert done.stdout.count('<div class="stage">') == 4, "the script that shows the control did not run"
    assert "Frame 1 of 11, step 2" in done.stdout
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr


def test_one_slice_of_a_volume_is_cut_out(tmp_path: Path):
    """The page's own parts from a file, moved as a reader would; the picture that results is told by its size."""
    frames = np.random.default_rng(0).integers(0, 2, (3, 5, 4, 3)).astype(np.uint8)
    drawing = Drawing("frames", tuple(picture(frame, 2, None) for frame in frames), frames=3, slices=5)
    one = {"index": 7, "drawing": drawing, "facts": {}}
    page = environment(TEMPLATES).from_string(
        '{% import "macros.html" as ui with context %}{{ ui.sequence(one, true) }}'
        """<script>{% include "play.js" %}</script><script>onload = () => {
          const [slider, image] = ["[data-slices]", ".stage img"].map((name) => document.querySelector(name));
          image.onload = () => {
            document.title = [image.naturalWidth, image.naturalHeight, document.querySelector("output").textContent];
          };
          slider.value = 2;
          slider.dispatchEvent(new Event("input"));
        };</script>"""
    )
    file = tmp_path / "page.html"
    file.write_text(page.render(one=one, root="", nonce=""))
    done = chromium(tmp_path, file.as_uri(), "--virtual-time-budget=3000", "--dump-dom")
    assert "<title>3,4,Frame 1 of 3, slice 2 of 5</title>" in done.stdout


@pytest.mark.parametrize(
    "path", ["/", "/params/tiny", "/datasets/grids/1", "/models/language-model/1", "/runs/language"]
)
def test_pages_are_drawn(open_site: Site, tmp_path: Path, path: str):
    shot = tmp_path / "shot.png"
    chromium(tmp_path, open_site.servers[0].url + path, "--window-size=1280,1600", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.size == (1280, 1600)
    assert len(image.getcolors(1 << 24) or ()) > 20
