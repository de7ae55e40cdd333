"""Whether this process is a submitted Ray job, told without Ray, whose import every command would pay for."""

from __future__ import annotations

import os


def inside_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
