"""A folder with Debian's Python for arm64 and this project's wheels, and an emulator that runs it.

Nothing is installed on this machine: packages are downloaded and laid out in the folder, which needs Debian's apt and
dpkg, no rights, and 0.9 GB of room.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("python3", "libstdc++6", "zlib1g")
WHEELS = ("numpy", "numba", "llvmlite", "pyarrow", "pydantic", "pydantic-core", "typing-extensions", "annotated-types")
PLATFORMS = ("2014", "_2_17", "_2_27", "_2_28", "_2_34")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Processor:
    """One of the emulator's, and what Linux says of such a processor in /proc/cpuinfo, where LLVM looks."""

    name: str
    emulated: str
    part: str
    features: str


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_DOTS = f"{_BASE} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PROCESSORS = (
    Processor("cortex-a72", "cortex-a72", "0xd08", f"{_BASE} cpuid"),
    Processor("neoverse-n1", "neoverse-n1", "0xd0c", _DOTS),
    # Two vector registers of 128 bits make the 256 of its SVE.
    Processor("neoverse-v1", "max,sve-default-vector-length=32", "0xd40", f"{_DOTS} sve i8mm bf16"),
)


class Machine:
    """The emulated machine that lies in ``folder``; what is there already is not fetched again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._root, self._site = self._folder / "root", self._folder / "site"
        if not (self._folder / "complete").exists():
            self._fetch()
            (self._folder / "complete").touch()

    def _fetch(self) -> None:
        lists, archives = self._folder / "apt/lists/partial", self._folder / "apt/archives/partial"
        for folder in (lists, archives, self._folder / "packages", self._root / "proc", self._site):
            folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        settings = [
            'APT::Architecture "arm64"; APT::Architectures { "arm64"; };',
            f'Dir::State "{self._folder}/apt"; Dir::Cache "{self._folder}/apt";',
            f'Dir::State::status "{self._folder}/status";',
        ]
        (self._folder / "apt.conf").write_text("\n".join(settings))
        apt = ["env", f"APT_CONFIG={self._folder}/apt.conf", "apt-get"]
        _run([*apt, "-q", "update"])
        planned = _run([*apt, "install", "-y", "--no-install-recommends", "--print-uris", *LIBRARIES])
        names = [line.split()[1].split("_")[0] for line in planned.splitlines() if line.startswith("'")]
        _run([*apt, "-q", "download", *names], self._folder / "packages")
        for package in (self._folder / "packages").glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(self._root)])
        if not shutil.which("qemu-aarch64"):
            own = self._folder / "emulator"
            own.mkdir(exist_ok=True)
            _run(["apt-get", "-q", "download", "qemu-user-static"], own)
            for package in own.glob("*.deb"):
                _run(["dpkg", "-x", str(package), str(own)])
        self._fetch_wheels()

    def _fetch_wheels(self) -> None:
        wheels = [f"{name}=={version(name)}" for name in (*WHEELS, "typing-inspection")]
        python = next((self._root / "usr/bin").glob("python3.*")).name.removeprefix("python").split("-")[0]
        platforms = [part for each in PLATFORMS for part in ("--platform", f"manylinux{each}_aarch64")]
        only = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--target", str(self._site)]
        _run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", *only, *platforms, *wheels])

    def start(self, processor: Processor, arguments: list[str]) -> subprocess.Popen[str]:
        """This project's Python on ``processor``, one at a time; its output is piped."""
        lines = {
            "processor": "0",
            "Features": processor.features,
            "CPU implementer": "0x41",
            "CPU part": processor.part,
        }
        (self._root / "proc/cpuinfo").write_text("".join(f"{name}\t: {value}\n" for name, value in lines.items()))
        own = next((self._folder / "emulator/usr/bin").glob("qemu-aarch64-static"), None)
        emulator = str(own or shutil.which("qemu-aarch64"))
        python = str(next((self._root / "usr/bin").glob("python3.*")))
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "PYTHONPATH": f"{self._site}:{ROOT}",
            "PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"),
            "NUMBA_CACHE_DIR": str(self._folder / "kernels" / processor.name),
        }
        command = [emulator, "-L", str(self._root), "-cpu", processor.emulated, python, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} …: failed, which an arm64 machine needs: {done.stderr[-500:]}")
    return done.stdout
