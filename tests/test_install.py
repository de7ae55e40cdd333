"""The image's steps run in a bare Debian, and then jobs as the pod runs them: user 1000, read-only root, no home.

What differs from an image and a kubelet: the Debian comes from debootstrap with its own Python 3.11 (PEP 668's mark is
overridden) and not from python:3.11-slim; torch comes from where this machine's pip finds it; the folder is entered by
chroot in mount and pid namespaces of root's, so there are no cgroup limits, seccomp profile, dropped capabilities,
network namespace, projected volumes or probes, and the machine's network is seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Inside, why_not
from tests.ray_fixtures import ROOT, TINY_SPEC, free_port, toml_of

SUITE = "bookworm"  # its Python is 3.11
PACKAGES = "python3,python3-pip,python-is-python3,ca-certificates"
HERE = "/opt/morphogen"
# Where this machine's pip finds packages and trusts servers; what is there is seen inside, and gone afterwards.
OUTSIDE = (
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/opt/wheels",
    "/opt/pypi",
    "/opt/pypi-more",
)
ENTER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"]
TRAINING = {
    "model": {"depth": 1, "dim": 16, "heads": 2},
    "steps": 4,
    "batch_sequences": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "precision": "fp32",
    "publish": "tiny-model",
}

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="no debootstrap: apt-get install debootstrap"),
]


def as_root(root: Path, *command: str) -> None:
    """Run a command in the folder as a build does."""
    seen = [path for path in OUTSIDE if Path(path).exists()]
    mounts = [f"mount --bind {path} {root}{path}" for path in (*seen, "/dev")]
    for path in seen:
        inside = Path(f"{root}{path}")
        if Path(path).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.touch()
    enter = "\n".join([*mounts, f"mount -t proc proc {root}/proc", f'exec chroot {root} "$@"'])
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment = {
        **passed,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "TORCH_INDEX": "",
    }
    subprocess.run([*ENTER, enter, "sh", *command], check=True, env=environment)


def as_pod(root: Path, *command: str, **options: object) -> Inside:
    """Start a command in the folder as infra/k8s runs it; a signal goes to the command."""
    enter = f"""
    mount --bind {root} {root}
    mount --bind /dev {root}/dev
    mount -t tmpfs -o size=64m shm {root}/dev/shm
    mount -t tmpfs -o mode=1777 tmp {root}/tmp
    mount --bind {root}/lake {root}/mnt
    mount -t proc proc {root}/proc
    mount -o remount,bind,ro {root}
    exec /usr/sbin/chroot --userspec=1000:1000 {root} env --chdir=/tmp "$@"
    """
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "MALLOC_ARENA_MAX": "2"}
    return Inside([*ENTER, enter, "sh", *command], env=environment, text=True, **options)


def said(root: Path, *command: str) -> str:
    """What a command that ends well prints."""
    with as_pod(root, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian in which every step of the image has run."""
    root = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root], check=True)
    install(root)
    yield root
    shutil.rmtree(root)


def install(root: Path) -> None:
    """Do in the folder what the Dockerfile does."""
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    for line in dockerfile.splitlines():
        if copied := re.fullmatch(r"COPY (.+) (\S+)", line):
            target = root / copied[2].lstrip("/") if copied[2].startswith("/") else root / HERE[1:] / copied[2]
            for source in copied[1].split():
                found = ROOT / source
                if found.is_dir():
                    shutil.copytree(found, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
                else:
                    (target.parent if copied[2].startswith("/") else target).mkdir(parents=True, exist_ok=True)
                    shutil.copy(found, target)
        elif step := re.fullmatch(r"RUN (morphogen-install \w+)", line):
            (root / HERE[1:]).mkdir(parents=True, exist_ok=True)
            as_root(root, *step[1].split())
    (root / "lake").mkdir(exist_ok=True)
    os.chown(root / "lake", 1000, 1000)


def test_jobs_run_as_a_pod_runs_them(installed: Path) -> None:
    lake = "/mnt/lake"
    (installed / "lake" / "tiny.toml").write_text(toml_of(TINY_SPEC))
    (installed / "lake" / "train.toml").write_text(toml_of({**TRAINING}) + '[[data]]\ndataset = "tiny@1"\n')
    assert said(installed, "id", "-u").strip() == "1000"
    assert said(installed, "sh", "-c", "touch /root-is-written 2>/dev/null || echo no").strip() == "no"
    said(installed, "morphogen", "params", "put", "tiny", "/mnt/tiny.toml", "--lake", lake)
    tokens = str(64 * TINY_SPEC["seq_len"])
    said(installed, "morphogen", "generate", "tiny@1", "--tokens", tokens, "--shard-sequences", "16", "--lake", lake)
    trained = json.loads(
        said(installed, "morphogen", "train", "/mnt/train.toml", "--run", "run", "--lake", lake, "--json")
    )
    assert trained["model"] == "tiny-model@1"


def test_the_demo_runs_as_a_pod_runs_it(installed: Path) -> None:
    said(installed, "morphogen", "demo", "--toy", "--lake", "/mnt/demo", "--report", "/tmp/report.html")


def test_the_server_answers_as_a_pod_runs_it(installed: Path) -> None:
    port = free_port()
    server = as_pod(installed, "morphogen", "serve", "--lake", "/mnt/lake", "--port", str(port))
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=30) as answer:
            assert answer.status == 200
    finally:
        server.kill()
        server.wait()
