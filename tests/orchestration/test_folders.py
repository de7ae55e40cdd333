"""Where libraries write unasked: with no home to write to, each of them below the temporary directory, and it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from orchestration import folders
from tests.other_user import as_nobody, in_child, open_folder
from tests.ray_fixtures import ROOT

USE = """
import json, os
from orchestration.folders import prepare_folders
prepare_folders()
import matplotlib
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter
from torch._inductor.runtime.cache_dir_utils import cache_dir
from triton.runtime.cache import get_cache_manager

figure = Figure()
figure.subplots().plot([1, 2])
figure.savefig("figure.png")
with SummaryWriter("events") as writer:
    writer.add_scalar("loss", 1.0, 1)
kernel = get_cache_manager("ABCDEF").put(b"kernel", "kernel.bin")
print(json.dumps([matplotlib.get_configdir(), matplotlib.get_cachedir(), cache_dir(), kernel, os.environ["HF_HOME"]]))
"""


def test_what_libraries_write_unasked_goes_below_the_temporary_directory(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/proc/none"}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**environment, "TMPDIR": str(tmp_path / "t")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "writable" not in done.stderr, "no library complains of a folder"
    private = tmp_path / "t" / f"morphogen-{os.geteuid()}"
    used = [Path(path) for path in json.loads(done.stdout)]
    assert all(path.is_relative_to(private) for path in used), used
    assert private.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "figure.png").stat().st_size
    assert list((tmp_path / "events").iterdir())


def test_a_user_whose_home_nothing_names_gets_one() -> None:
    def be_unknown() -> None:
        os.environ.pop("HOME", None)
        os.environ.pop("XDG_CACHE_HOME", None)
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)

    def prepared() -> tuple[str, bool]:
        folders.prepare_folders()
        return str(Path.home()), os.access(Path.home(), os.W_OK)

    home, writable = in_child(prepared, be_unknown)
    assert writable
    assert os.getuid() or "/morphogen-54321/" in home


def test_ray_keeps_its_sessions_elsewhere_where_another_user_made_the_usual_folder() -> None:
    with open_folder() as shared:
        usual = shared / "ray"
        assert folders.ray_folder(str(usual)) is None, "it will be ours"
        usual.mkdir()
        assert folders.ray_folder(str(usual)) is None
        usual.chmod(0)
        found = as_nobody(lambda: folders.ray_folder(str(usual)))
        assert found is not None
        assert Path(found).name == "ray"
        assert not Path(found).is_relative_to(shared)
