"""What a job logs while it runs: JSON lines with run and shard ids, and Prometheus metrics through Ray's exporter.

Both are made of the same events: records of the logger ``morphogen``, which name what happened and carry its fields.
Ray keeps each worker's lines in its session's logs; on the driver they go where MORPHOGEN_LOG says.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datalake.events import log_event
from orchestration.console.foreign import as_json
from orchestration.errors import InvalidRequestError

_LOGGER = logging.getLogger("morphogen")
_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]

# metric: (kind, what it says, event, field; None counts the events). Ray puts "ray_" before the name.
METRICS: dict[str, tuple[str, str, str, str | None]] = {
    "morphogen_generated_tokens": ("Counter", "Tokens of accepted sequences made.", "shard_made", "tokens"),
    "morphogen_candidates": ("Counter", "Sequences simulated and scored.", "shard_made", "candidates"),
    "morphogen_acceptance": ("Gauge", "Accepted share of candidates, last shard.", "shard_made", "acceptance"),
    "morphogen_shard_seconds": ("Histogram", "Seconds to make a shard.", "shard_made", "seconds"),
    "morphogen_shards_waiting": ("Gauge", "Shards handed to actors and not yet done.", "pool", "in_flight"),
    "morphogen_generator_actors": ("Gauge", "Generator actors of the job.", "pool", "actors"),
    "morphogen_buffer_bytes": ("Gauge", "Bytes generated and not yet consumed.", "buffer", "bytes"),
    "morphogen_consumed_tokens": ("Counter", "Tokens trained on, all ranks.", "steps", "tokens"),
    "morphogen_step_seconds": ("Histogram", "Seconds of a training step.", "steps", "step_seconds"),
    "morphogen_data_wait_seconds": ("Counter", "Seconds a step loop waited for data.", "steps", "data_wait_seconds"),
    "morphogen_loss": ("Gauge", "Training loss, nats per token.", "steps", "loss"),
    "morphogen_store_retries": ("Counter", "Calls on the store that were repeated.", "store_retry", None),
    "morphogen_shards_healed": ("Counter", "Shards computed again.", "shard_healed", None),
    "morphogen_commit_seconds": ("Histogram", "Seconds to append to a version log.", "commit", "seconds"),
}


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, event, what the process always adds, the event's fields."""

    def __init__(self, always: dict[str, Any]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return as_json(line)


class RayMetrics(logging.Handler):
    """Turns events into Ray's metrics, tagged with the run. Made once Ray is initialised in this process."""

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        super().__init__()
        self._by_event: dict[str, list[tuple[Callable[[float], None], str | None]]] = {}
        for name, (kind, says, event, field) in METRICS.items():
            more = {"boundaries": _SECONDS} if kind == "Histogram" else {}
            metric = getattr(metrics, kind)(name, description=says, tag_keys=("run",), **more)
            metric.set_default_tags({"run": run})
            take = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}[kind]
            self._by_event.setdefault(event, []).append((getattr(metric, take), field))

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "fields", {})
        for take, field in self._by_event.get(record.getMessage(), ()):
            value = 1.0 if field is None else fields.get(field)
            # Ray refuses to count nothing.
            if value is not None and (value > 0 or take.__name__ != "inc"):
                take(value)


def _ray_runs() -> bool:
    """Whether this process is connected to Ray; asking must not be what loads it."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def start_telemetry(run: str, **always: Any) -> None:
    """Log this worker's events: lines with ``run`` and ``always`` on standard error, which Ray keeps, and metrics."""
    _attach(run, lines=True, **always)


@contextmanager
def driver_telemetry(run: str) -> Iterator[None]:
    """Log the events of a job's driver in the block: metrics where Ray is initialised, lines where MORPHOGEN_LOG asks
    for them, since a person is shown progress there. A job within a job logs under its own name."""
    before = [*_LOGGER.handlers], _LOGGER.level, _LOGGER.propagate
    _attach(run, lines=wants_json())
    try:
        yield
    finally:
        _LOGGER.handlers[:], _LOGGER.propagate = before[0], before[2]
        _LOGGER.setLevel(before[1])


def _attach(run: str, *, lines: bool, **always: Any) -> None:
    _LOGGER.handlers[:] = [logging.NullHandler()]
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.propagate = False
    if _ray_runs():
        _LOGGER.addHandler(RayMetrics(run))
    if lines:
        written = logging.StreamHandler(sys.stderr)
        written.setFormatter(JsonLines({"run": run, **always}))
        written.setLevel(logging.INFO)  # what comes many times a second is counted, and not written
        _LOGGER.addHandler(written)


def wants_json() -> bool:
    """Whether MORPHOGEN_LOG asks for JSON lines on the driver's standard error; InvalidRequestError if misspelt."""
    wanted = os.environ.get("MORPHOGEN_LOG", "")
    if wanted not in ("", "json"):
        raise InvalidRequestError(f"MORPHOGEN_LOG = {wanted!r}: expected 'json', or nothing; change or unset it")
    return wanted == "json"


def with_step_metrics(on_event: Callable[[dict[str, Any]], None], log_every: int) -> Callable[[dict[str, Any]], None]:
    """``on_event`` for the step loop, which also logs the steps behind each of its "step" events."""

    def logged(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            log_step(event, log_every)
        on_event(event)

    return logged


def log_step(event: dict[str, Any], log_every: int) -> None:
    """Log the steps behind one of the step loop's "step" events: ``log_every`` of them, fewer at the end."""
    tokens_per_s, wait = event["tokens_per_s"], event["data_wait"]
    steps = (event["step"] - 1) % log_every + 1
    tokens = event["tokens"] / event["step"] * steps
    seconds = tokens / tokens_per_s if tokens_per_s else None
    log_event(
        "steps",
        logger="morphogen.trainer",
        step=event["step"],
        tokens=round(tokens),
        loss=event["loss"],
        step_seconds=None if seconds is None else seconds / steps,
        data_wait_seconds=None if seconds is None else seconds * wait,
    )
