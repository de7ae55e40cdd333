"""All checks in the order in which they are shown."""

from __future__ import annotations

from functools import partial

from datalake.errors import DatalakeError
from orchestration.doctor.cluster import check_ray
from orchestration.doctor.findings import Check, Finding, examine
from orchestration.doctor.lake import check_lake, local_folder
from orchestration.doctor.machine import (
    check_disk,
    check_gpu,
    check_memory,
    check_processor,
    check_versions,
    check_zlib,
)


def examine_all(lake_uri: str, timeout_s: float) -> list[Finding]:
    """What is found on this machine, of the Ray that ``RAY_ADDRESS`` names, and in the lake; within ``timeout_s``."""
    try:
        folder = local_folder(lake_uri)
    except DatalakeError:
        folder = None  # said by the check of the lake
    waits = "what it asks does not answer: see `dmesg`, and `mount` for a network's file system that is away"
    return examine(
        [
            Check("versions", check_versions, waits),
            Check("processor", check_processor, waits),
            Check("zlib", check_zlib, waits),
            Check("memory", check_memory, waits),
            Check("disk", partial(check_disk, lake=folder), waits),
            Check("gpu", check_gpu, "the driver hangs: look at `dmesg`, then restart the machine"),
            Check("ray", check_ray, "the head hangs: look at `ray status` on it; start it anew if need be"),
            Check(
                "lake",
                partial(check_lake, uri=lake_uri),
                "the store hangs, or the network to it: check AWS_ENDPOINT_URL_S3, proxies, or the mount of the folder",
            ),
        ],
        timeout_s,
    )
