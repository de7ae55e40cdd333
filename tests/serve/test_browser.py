"""Headless Chromium on real pages: the policy breaks nothing, the play control works.

What the script finds in the page, and what the policy lets it do, is read without a browser in ``test_pages``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.serve.conftest import Site

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


@pytest.mark.parametrize(
    "path", ["/", "/params/tiny", "/datasets/grids/1", "/models/language-model/1", "/runs/language"]
)
def test_pages_are_drawn(open_site: Site, tmp_path: Path, path: str):
    shot = tmp_path / "shot.png"
    chromium(tmp_path, open_site.servers[0].url + path, "--window-size=1280,1600", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.size == (1280, 1600)
    assert len(image.getcolors(1 << 24) or ()) > 20
