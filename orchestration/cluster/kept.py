"""A Ray of this machine that is kept between commands: `morphogen ray start`, `stop` and `status`.

A command without ``RAY_ADDRESS`` starts a Ray of its own and ends it, which takes seconds. One that was kept is joined
instead, if it is there, has the logical CPUs that the command needs, and was started with the same Python and the same
environment, as far as that decides what a job does: its workers have the environment of its start and no other.

What is known of it lies in a private folder of the user. Commands hold a lock on it while they use it, by which
``stop`` knows of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from generator.cache_folder import cache_folder
from orchestration.cluster.address import check_head
from orchestration.errors import ClusterLostError, InvalidRequestError
from orchestration.folders import ray_folder

START_ATTEMPTS = 3
START_TIMEOUT = "timed out during startup"
STARTED = "Ray runtime started"
USUAL_START_S = 10.0
STOP_TIMEOUT_S = 10.0

# What of the environment decides what a job's processes do: the lake's credentials, threads, devices, libraries.
_DECIDING = ("MORPHOGEN_", "AWS_", "NUMBA_", "OMP_", "MKL_", "CUDA_", "TORCH", "TRITON_", "HF_", "WANDB_")
_DECIDING_NAMES = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

# What a job's processes are told by the job itself.
_TOLD = ("MORPHOGEN_LAKE",)


@dataclass(frozen=True)
class KeptRay:
    """A head of this machine: its ``address``, its first process, the logical ``cpus``, and what it was started with.

    ``environment`` has a salted SHA-256 for each variable that counts, so that no secret is written down.
    """

    address: str
    pid: int
    started: float
    cpus: int
    python: str
    salt: str
    environment: Mapping[str, str]

    @property
    def lives(self) -> bool:
        """Whether its first process is there, and not another one that has its number now."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            return abs(found.create_time() - self.started) < 1 and found.status() != psutil.STATUS_ZOMBIE
        return False

    def differs(self, cpus: float) -> str | None:
        """Why a command that needs ``cpus`` logical CPUs cannot use it; None if it can."""
        if cpus > self.cpus:
            return f"it has {self.cpus} logical CPUs, and this takes {cpus:g}"
        if self.python != sys.executable:
            return f"it runs {self.python}"
        now = _fingerprint(self.salt)
        names = sorted(name for name in {*now, *self.environment} if now.get(name) != self.environment.get(name))
        return f"it was started with another {', '.join(names)}" if names else None


def kept_ray() -> KeptRay | None:
    """The kept Ray whose process lives, None if there is none."""
    with suppress(OSError, ValueError, TypeError):
        kept = KeptRay(**json.loads(_path().read_text()))
        return kept if kept.lives else None
    return None


@contextmanager
def using(kept: KeptRay) -> Iterator[None]:
    """Hold the lock by which ``stop_kept`` knows of its users. Raises ClusterLostError if no head answers."""
    with _path().with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        check_head(kept.address)
        yield


def start_kept(cpus: int, environment: Mapping[str, str], poll: Callable[[float], None]) -> KeptRay:
    """Start one with ``cpus`` logical CPUs that outlives this process; ``poll`` hears how many seconds it has taken.

    ``environment`` is added to this process's own. Raises InvalidRequestError if there is one, ClusterLostError if it
    does not start.
    """
    path = _path()
    with path.with_suffix(".lock").open("a") as lock:
        if not _locked_alone(lock.fileno()):
            raise InvalidRequestError("the kept Ray: another command starts or uses one")
        if (there := kept_ray()) is not None:
            raise InvalidRequestError(
                f"a Ray with {there.cpus} logical CPUs is kept at {there.address} already: use it, or end it first "
                "(`morphogen ray stop`)"
            )
        address, pid = _started(cpus, environment, path.with_suffix(".log"), poll)
        try:
            salt = secrets.token_hex(16)
            created = psutil.Process(pid).create_time()
            kept = KeptRay(address, pid, created, cpus, sys.executable, salt, _fingerprint(salt))
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(kept)))
            fresh.replace(path)
        except BaseException:
            _end(pid)
            raise
        return kept


def stop_kept(*, force: bool = False) -> KeptRay | None:
    """End the kept Ray with all its processes; None if there is none.

    Raises InvalidRequestError while a command uses it, unless ``force``: that command ends with it.
    """
    path = _path()
    with path.with_suffix(".lock").open("a") as lock:
        if not force and not _locked_alone(lock.fileno()):
            raise InvalidRequestError(
                "the kept Ray: a command uses it: wait for its end, or give --force, which ends that too"
            )
        kept = kept_ray()
        if kept is not None:
            _end(kept.pid)
        path.unlink(missing_ok=True)
        return kept


def in_use() -> bool:
    """Whether a command uses the kept Ray now."""
    with _path().with_suffix(".lock").open("a") as lock:
        return not _locked_alone(lock.fileno())


def _path() -> Path:
    """One for each machine, as homes are shared. Raises OSError where nothing private can be written."""
    folder = cache_folder("ray-kept")
    if folder is None:
        raise FileNotFoundError(None, "neither the user's cache folder nor the temporary directory can be written")
    return folder / f"{socket.gethostname()}.json"


def _fingerprint(salt: str) -> dict[str, str]:
    deciding = [name for name in os.environ if name.startswith(_DECIDING) or name in _DECIDING_NAMES]
    return {
        name: hashlib.sha256(f"{salt}{os.environ[name]}".encode("utf-8", "surrogateescape")).hexdigest()
        for name in deciding
        if name not in _TOLD
    }


def _locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _started(cpus: int, environment: Mapping[str, str], log: Path, poll: Callable[[float], None]) -> tuple[str, int]:
    """The address of a head that is up, and its first process; on a busy machine a start may take several attempts."""
    begun = time.monotonic()
    for attempt in range(1, START_ATTEMPTS + 1):
        address = f"127.0.0.1:{_free_port()}"
        process = _spawned(address, cpus, environment, log)
        try:
            while STARTED not in (said := log.read_text(errors="replace")) and process.poll() is None:
                poll(time.monotonic() - begun)
                time.sleep(0.1)
        except BaseException:
            _end(process.pid)
            raise
        if process.returncode is None:
            return address, process.pid
        _end(process.pid)
        if START_TIMEOUT not in said or attempt == START_ATTEMPTS:
            last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "nothing")
            raise ClusterLostError(
                f"Ray did not start on this machine ({attempt} times tried), and said: {last}; all of it is in {log}"
            )
    raise AssertionError("unreachable")


def _spawned(address: str, cpus: int, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--num-cpus={cpus}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    command += [f"--dashboard-agent-listen-port={_free_port()}", "--disable-usage-stats"]
    if (folder := ray_folder()) is not None:
        command.append(f"--temp-dir={folder}")
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in this terminal is not for it
        )


def _end(pid: int) -> None:
    """End the process, what it has started and what is left of its session, the stubborn by SIGKILL."""
    tree = {process for process in psutil.process_iter() if _session(process.pid) == pid}
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        tree |= {first, *first.children(recursive=True)}
        first.terminate()  # it ends its head's processes itself
    for signalled in (psutil.Process.terminate, psutil.Process.kill):
        _, left = psutil.wait_procs(tree, timeout=STOP_TIMEOUT_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                signalled(process)
    psutil.wait_procs(tree, timeout=STOP_TIMEOUT_S)


def _session(pid: int) -> int:
    """The number of the session that a process belongs to; 0 if it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0
