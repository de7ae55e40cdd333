"""What a job tells: lines that a machine can read, without secrets, and metrics that Prometheus can scrape from Ray."""

import io
import json
import logging
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from datalake import Lake
from datalake.events import log_event
from orchestration import telemetry
from orchestration.errors import InvalidRequestError
from tests.test_kubernetes import exported


@pytest.fixture
def _logger():
    """The logger as it was, whatever a test adds to it."""
    logger = logging.getLogger("morphogen")
    handlers, level, propagate = [*logger.handlers], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.mark.usefixtures("_logger")
def test_events_are_json_lines_with_the_ids_of_their_process(monkeypatch, tmp_path):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(telemetry, "_ray_runs", lambda: False)
    telemetry.start_telemetry("old")
    telemetry.start_telemetry("run-7", worker=3)
    Lake.open(str(tmp_path / "lake")).runs.start("run-7", "train", {}, {})
    log_event("store_retry", level=logging.WARNING, key="a/b", attempt=1, reason="SlowDown")
    lines = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["commit", "store_retry"]
    assert all((line["run"], line["worker"]) == ("run-7", 3) for line in lines)
    assert (lines[0]["log"], lines[0]["entry"]) == ("runs/run-7", 1)
    assert lines[0]["seconds"] >= 0
    told = {"event": "store_retry", "key": "a/b", "attempt": 1, "reason": "SlowDown"}
    ids = {"level": "warning", "logger": "morphogen.datalake", "run": "run-7", "worker": 3}
    assert lines[1] == {"time": lines[1]["time"]} | ids | told


@pytest.mark.usefixtures("_logger")
def test_the_driver_is_silent_unless_asked(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(telemetry, "_ray_runs", lambda: False)
    for wanted, lines in (("", 0), ("json", 1)):
        monkeypatch.setenv("MORPHOGEN_LOG", wanted)
        with telemetry.driver_telemetry("run"):
            log_event("commit", log="x", entry=1, seconds=0.1)
            log_event("buffer", level=logging.DEBUG, bytes=7)
        log_event("commit", log="x", entry=2, seconds=0.1)
        assert len(stderr.getvalue().splitlines()) == lines
    monkeypatch.setenv("MORPHOGEN_LOG", "yaml")
    refused = pytest.raises(InvalidRequestError, match="MORPHOGEN_LOG = 'yaml': expected 'json'")
    with refused, telemetry.driver_telemetry("run"):
        pass


def test_an_interval_of_steps_is_told_whole():
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.fields)
    log = logging.getLogger("morphogen.trainer")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        for step in (10, 20, 25):
            event = {"step": step, "tokens": step * 64, "tokens_per_s": 320.0, "data_wait": 0.25, "loss": 2.0}
            telemetry.log_step(event, log_every=10)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert [fields["tokens"] for fields in told] == [640, 640, 320]
    assert [fields["step_seconds"] for fields in told] == [0.2, 0.2, 0.2]
    assert [fields["data_wait_seconds"] for fields in told] == [0.5, 0.5, 0.25]


@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_can_scrape_what_workers_tell():
    @ray.remote(num_cpus=0.1)
    def work() -> None:
        telemetry.start_telemetry("scraped")
        log_event("store_retry", key="a", attempt=1, reason="503")
        log_event("store_retry", key="a", attempt=2, reason="503")
        log_event("commit", log="runs/x", entry=1, seconds=0.02)
        log_event("shard_made", tokens=512, candidates=8, acceptance=0.5, seconds=0.2)
        log_event("pool", actors=2, in_flight=3)
        log_event("buffer", bytes=7)
        log_event("steps", tokens=64, step_seconds=0.1, data_wait_seconds=0.05, loss=2.0)
        log_event("shard_healed", shard="s", rows=1, problem="lost")
        time.sleep(3)  # long enough to report before the worker may be taken down

    ray.get(work.remote())
    node = ray.nodes()[0]
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        "store_retries": 2.0,
        "generated_tokens": 512.0,
        "acceptance": 0.5,
        "commit_seconds_count": 1.0,
        "commit_seconds_sum": 0.02,
    }
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    names: set[str] = set()
    while time.monotonic() < deadline and not (wanted.items() <= found.items() and exported() <= names):
        time.sleep(0.5)
        with urllib.request.urlopen(page) as answer:
            lines = [line for line in answer.read().decode().splitlines() if 'run="scraped"' in line]
        for line in lines:
            names.add(line.partition("{")[0])
            name = line.partition("{")[0].removeprefix("ray_morphogen_").removesuffix("_total")
            found[name] = float(line.rpartition(" ")[2])
    assert wanted.items() <= found.items(), found
    assert exported() <= names, "dashboards and alerts ask for these"


def test_every_metric_has_a_line_in_the_handbook():
    page = (Path(__file__).resolve().parents[2] / "docs" / "observability.md").read_text()
    missing = [name for name in telemetry.METRICS if f"`ray_{name}" not in page]
    assert not missing
