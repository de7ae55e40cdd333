"""Compiled kernels on installations and homes that cannot be written: slower, the same bytes, said once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from generator.cache_folder import cache_folder
from tests.ray_fixtures import ROOT

OTHER_USER = 54321

# A kernel of a family that compiles in a second, made as a process of its own would make it.
PROGRAM = """
from generator import generate_batch, parse_spec
spec = parse_spec({"family": "dyck", "types": 2, "seq_len": 16})
table = generate_batch(spec, 0, 0, 2, backend="numba")
print(table["tokens"].to_pylist()[0].hex())
"""


PROGRAM_FOR_C = """
import ctypes
from numba import types
from generator.machine_code import compiled_for_c

def square(numbers):
    numbers[0] *= numbers[0]

made = compiled_for_c(square, types.void(types.CPointer(types.int64)))
number = ctypes.c_int64(7)
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(made.address)(ctypes.addressof(number))
print(number.value)
"""


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return folder


def test_the_user_s_cache_folder_comes_first(tmp_path, monkeypatch, own_temporary):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("x") == tmp_path / "xdg" / "morphogen" / "x"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("x") == tmp_path / ".cache" / "morphogen" / "x"
    assert list(own_temporary.iterdir()) == []


def test_without_a_home_a_private_temporary_folder(monkeypatch, own_temporary):
    monkeypatch.setenv("HOME", "/proc/none")
    found = cache_folder("x")
    assert found == own_temporary / f"morphogen-{os.geteuid()}" / "x"
    assert found.parent.stat().st_mode & 0o777 == 0o700


def test_what_others_may_have_put_there_is_not_trusted(tmp_path, monkeypatch, own_temporary):
    monkeypatch.setenv("HOME", "/proc/none")
    squatted = own_temporary / f"morphogen-{os.geteuid()}"
    squatted.mkdir(mode=0o777)
    squatted.chmod(0o777)
    assert cache_folder("x") is None
    squatted.rmdir()
    (tmp_path / "elsewhere").mkdir()
    squatted.symlink_to(tmp_path / "elsewhere")
    assert cache_folder("x") is None
    squatted.unlink()
    squatted.write_text("a file")
    assert cache_folder("x") is None


def test_another_owner_s_folder_is_not_trusted(monkeypatch, own_temporary):
    monkeypatch.setenv("HOME", "/proc/none")
    squatted = own_temporary / f"morphogen-{os.geteuid()}"
    squatted.mkdir(mode=0o700)
    if os.geteuid() == 0:  # who is not root cannot give a folder away, nor be given one by this test
        os.chown(squatted, OTHER_USER, OTHER_USER)
        assert cache_folder("x") is None


def run(environment: dict[str, str], command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    return subprocess.run(
        command or [sys.executable, "-c", PROGRAM],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def expected() -> str:
    from generator import generate_batch, parse_spec

    spec = parse_spec({"family": "dyck", "types": 2, "seq_len": 16})
    return generate_batch(spec, 0, 0, 2, backend="reference")["tokens"].to_pylist()[0].hex()


def test_a_damaged_or_unwritable_kept_kernel_costs_time_and_no_result(tmp_path, expected):
    """The index of kept kernels is spoiled, as a power cut does; then nothing can be written at all."""
    kept = tmp_path / "kept"
    environment = {"HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(kept)}
    assert run(environment).stdout.strip() == expected
    spoiled = list(kept.rglob("*.nb[ic]"))
    assert spoiled
    for path in spoiled:
        path.write_bytes(b"\x80\x05 not what it was")
    found = run(environment)
    assert (found.stdout.strip(), found.returncode) == (expected, 0), found.stderr
    assert found.stderr.count("compiled kernels are not kept on disk") == 1
    found = run({"HOME": "/proc/none", "NUMBA_CACHE_DIR": "/proc/none"})
    assert (found.stdout.strip(), found.returncode) == (expected, 0), found.stderr


def test_so_does_one_for_c(tmp_path):
    program = tmp_path / "program.py"  # code from a string is not kept
    program.write_text(PROGRAM_FOR_C)
    kept, command = tmp_path / "kept", [sys.executable, str(program)]
    environment = {"HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(kept)}
    for _ in range(2):
        found = run(environment, command)
        assert (found.stdout.strip(), found.stderr) == ("49", "")
        spoiled = list(kept.rglob("*.nb[ic]"))
        assert len(spoiled) == 2
    for path in spoiled:
        path.write_bytes(b"\x80\x05 not what it was")
    found = run(environment, command)
    assert (found.stdout.strip(), found.returncode) == ("49", 0), found.stderr
    assert found.stderr.count("compiled kernels are not kept on disk") == 1


def test_a_read_only_installation_without_a_home_computes_and_keeps_its_kernels(tmp_path, expected):
    """As in a hardened pod: the code cannot be written, there is no home, one temporary folder is all."""
    code, temporary = tmp_path / "code", tmp_path / "tmp"
    shutil.copytree(ROOT / "generator", code / "generator", ignore=shutil.ignore_patterns("__pycache__"))
    temporary.mkdir()
    command = [sys.executable, "-c", PROGRAM]
    if os.geteuid() == 0:  # whom permissions do not stop
        read_only = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", read_only, "sh", str(code), *command]
    else:
        for path in [code, *code.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
    environment = {"HOME": "/proc/none", "TMPDIR": str(temporary), "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    found = run(environment, command)
    assert (found.stdout.strip(), found.returncode) == (expected, 0), found.stderr
    assert found.stderr == ""
    assert list((temporary / f"morphogen-{os.geteuid()}" / "numba").rglob("*.nbi")), "kept for the next process"
    assert not list(code.rglob("*.nbi"))
