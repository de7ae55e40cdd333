"""One Ray for the whole test session, joined by the processes that tests start; specs and models that are quick."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.s3server import S3Server

ROOT = Path(__file__).resolve().parents[1]

TINY_SPEC = {
    "family": "nca",
    "grid": [6, 6],
    "colors": 3,
    "embed": 2,
    "hidden": 4,
    "burn_in": 2,
    "seq_len": 128,
    "band": {"score": "gzip-int32-v1-normalized", "low": 0.1, "high": 0.9},
}


@dataclass(frozen=True)
class Cluster:
    """`address` is what RAY_ADDRESS takes, `dashboard` what `ray job submit --address` takes."""

    address: str
    dashboard: str


@pytest.fixture(scope="session")
def ray_cluster(s3_server: S3Server) -> Iterator[Cluster]:
    """A local Ray with logical CPUs to spare.

    Ray's workers inherit the environment that it was started with, so that is where they find the S3 server.
    """
    import ray  # takes seconds, and most tests do without

    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.env().items():
            environment.setenv(name, value)
        started = _start()
    yield Cluster(ray.get_runtime_context().gcs_address, f"http://{started.dashboard_url}")
    ray.shutdown()


def _start() -> Any:
    """Start the session's Ray: on a machine that is busy with other things it may take longer than Ray gives itself."""
    import ray
    from ray._private.parameter import RayParams

    from orchestration.cluster.session import START_TIMEOUT, whole_start

    for left in (2, 1, 0):
        # The port through which jobs are submitted is fixed, and `init` takes no other: of the two sessions that share
        # a machine under xdist, the second would have no agent for them.
        with_port = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=free_port())
        try:
            with whole_start(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(RayParams, "__init__", with_port)
                return ray.init(
                    address="local",
                    num_cpus=6,
                    include_dashboard=True,
                    dashboard_port=free_port(),
                    log_to_driver=False,
                    # Ten seconds by default, which the test that scrapes would wait for.
                    _system_config={"metrics_report_interval_ms": 500},
                )
        except Exception as error:  # Ray has no narrower type for it
            if not left or START_TIMEOUT not in str(error):
                raise
    raise AssertionError("unreachable")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def inline_toml(fields: dict) -> str:
    """Any nesting of tables and lists as TOML: a line per key, tables inline."""
    return "".join(f"{key} = {_inline(value)}\n" for key, value in fields.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def toml_of(fields: dict) -> str:
    """A flat table (and tables one level down) as TOML."""
    tables = {key: value for key, value in fields.items() if isinstance(value, dict)}
    lines = [f"{key} = {_literal(value)}" for key, value in fields.items() if key not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return str(value)


@pytest.fixture
def tiny_spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(toml_of(TINY_SPEC))
    return path


@pytest.fixture
def morphogen(tmp_path: Path):
    """Start `morphogen …` as a process; ``run`` waits for it, ``start`` gives the process to kill."""
    return Command(tmp_path)


class Command:
    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestration", *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.Popen(
            command, cwd=self.cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
