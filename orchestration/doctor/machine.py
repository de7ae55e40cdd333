"""This machine: versions, processor, zlib, memory, shared memory, disk, GPU. Neither PyTorch nor Ray is imported."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from datalake.store.addresses import nearest_existing
from generator.cache_folder import cache_folder
from generator.nca.dots import kernel_name
from generator.score import zlib_defines_scores
from orchestration.cluster.cores import local_cores
from orchestration.doctor.findings import Add, Finding, Status
from orchestration.folders import ray_folder

PACKAGES = ("morphogen", "ray", "torch", "numpy", "numba", "pyarrow", "boto3", "pydantic")
SHARED_MEMORY = Path("/dev/shm")

GB = 1 << 30
LEAST_MEMORY = 2 * GB
LEAST_DISK, SCARCE_DISK = GB // 4, 2 * GB
RAY_FULL = 0.95  # Ray stops spilling to a disk that is fuller (RAY_local_fs_capacity_threshold)
RAY_SHARE = 0.3  # of the memory, which Ray takes for its objects
SMI_TIMEOUT_S = 10.0
_SMI_FIELDS = "name,driver_version,memory.total,memory.used"


def check_versions(add: Add) -> None:
    """Add the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    missing = [name for name in PACKAGES if found[name] is None]
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    advice = f"install {', '.join(missing)} into this Python ({sys.executable}): `make setup`" if missing else ""
    add(Finding("versions", "failed" if missing else "ok", text, advice, found))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_processor(add: Add) -> None:
    """Add the cores that this process may use, and the instructions that the kernels are compiled to."""
    cores, there = local_cores(), psutil.cpu_count() or 1
    load = os.getloadavg()[0]
    kernel = kernel_name()
    facts = {"cores": cores, "of": there, "load": round(load, 1), "kernel": kernel, "machine": platform.machine()}
    text = f"{cores} of {there} cores, load {load:.1f}, kernels by {kernel}"
    if load > 2 * there:
        add(Finding("processor", "warning", text, "other processes want these cores: see `top`, or wait", facts))
    else:
        add(Finding("processor", "ok", text, "", facts))


def check_zlib(add: Add) -> None:
    """Add which zlib Python is linked with, and who therefore counts the sizes that scores are made of."""
    right = zlib_defines_scores()
    by = "which defines the scores" if right else "a fork: our own kernel counts the scores, which stay the same"
    facts = {"version": zlib.ZLIB_RUNTIME_VERSION, "defines_scores": right}
    add(Finding("zlib", "ok", f"{zlib.ZLIB_RUNTIME_VERSION}, {by}", "", facts))


def check_memory(add: Add) -> None:
    """Add how much memory is free, and whether shared memory holds what Ray keeps there."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    limit, used = _cgroup_memory()
    where = ""
    if limit is not None and limit < total:
        total, available, where = limit, min(available, max(0, limit - used)), " in this container"
    facts = {"total": total, "available": available}
    text = f"{_size(available)} of {_size(total)} free{where}"
    if available < LEAST_MEMORY:
        add(Finding("memory", "warning", text, "end other processes, or use fewer --actors and --workers", facts))
    else:
        add(Finding("memory", "ok", text, "", facts))
    if not SHARED_MEMORY.is_dir():
        return
    shared = shutil.disk_usage(SHARED_MEMORY)
    facts = {"total": shared.total, "free": shared.free}
    text = f"{_size(shared.free)} of {_size(shared.total)} free in {SHARED_MEMORY}"
    if shared.free < RAY_SHARE * total:
        advice = (
            "Ray will keep its objects on disk, which is slow: docker run --shm-size, or an emptyDir of medium Memory"
        )
        add(Finding("shared memory", "warning", text, advice, facts))
    else:
        add(Finding("shared memory", "ok", text, "", facts))


def _cgroup_memory() -> tuple[int | None, int]:
    """(limit in bytes or None, bytes in use) of this container (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        return (None if limit == "max" else int(limit)), int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None, 0


def check_disk(add: Add, lake: Path | None) -> None:
    """Add the free space where a local lake, temporary files, Ray's sessions and our caches are; a disk once."""
    wanted = [("the lake", lake), ("temporary files", Path(tempfile.gettempdir()))]
    wanted += [("Ray", Path(ray_folder() or "/tmp/ray")), ("caches", cache_folder("numba"))]
    disks: dict[int, tuple[Path, list[str]]] = {}
    for use, path in wanted:
        if path is not None:
            there = nearest_existing(path)
            disks.setdefault(there.stat().st_dev, (there, []))[1].append(use)
    for place, uses in disks.values():
        add(_disk_finding(place, uses))


def _disk_finding(place: Path, uses: Iterable[str]) -> Finding:
    disk = shutil.disk_usage(place)
    facts = {"path": str(place), "total": disk.total, "free": disk.free}
    text = f"{_size(disk.free)} of {_size(disk.total)} free at {place} ({', '.join(uses)})"
    full = 1 - disk.free / disk.total if disk.total else 1.0
    status: Status = "failed" if disk.free < LEAST_DISK else "warning" if disk.free < SCARCE_DISK else "ok"
    if "Ray" in uses and full > RAY_FULL and status == "ok":
        return Finding("disk", "warning", text, f"Ray stops spilling at {RAY_FULL:.0%} full: make room there", facts)
    advice = "" if status == "ok" else "make room there, or point --lake, TMPDIR or XDG_CACHE_HOME elsewhere"
    return Finding("disk", status, text, advice, facts)


def check_gpu(add: Add) -> None:
    """Add the NVIDIA GPUs and their driver, as nvidia-smi tells them."""
    command = ["nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
    except FileNotFoundError:
        if Path("/proc/driver/nvidia").exists():
            advice = "install the driver's tools, or give the container the runtime `nvidia`"
            add(Finding("gpu", "warning", "an NVIDIA driver is loaded, and there is no nvidia-smi", advice))
        else:
            add(Finding("gpu", "ok", "no NVIDIA GPU: everything runs on the CPU"))
        return
    except OSError as error:
        add(Finding("gpu", "failed", f"nvidia-smi cannot be run ({error.strerror})", "install the driver anew"))
        return
    except subprocess.TimeoutExpired:
        advice = "the driver hangs: look at `dmesg`, then restart the machine"
        add(Finding("gpu", "failed", f"nvidia-smi gave no answer within {SMI_TIMEOUT_S:.0f} s", advice))
        return
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode or not lines:
        said = (answer.stderr.strip() or answer.stdout.strip() or "it said nothing").splitlines()[0]
        add(Finding("gpu", "failed", f"nvidia-smi failed: {said}", "install the driver that fits the kernel, restart"))
        return
    for number, line in enumerate(lines):
        add(_gpu_finding(number, line))


def _gpu_finding(number: int, line: str) -> Finding:
    name, driver, total, used = ([part.strip() for part in line.split(",")] + ["?"] * 4)[:4]
    facts = {"name": name, "driver": driver, "memory_mib": total, "used_mib": used}
    text = f"{number}: {name}, driver {driver}, {used} of {total} MiB in use"
    torch = _version("torch") or ""
    if torch.endswith("+cpu"):
        advice = "install PyTorch for CUDA in this environment, or training stays on the CPU"
        return Finding("gpu", "warning", f"{text}, but PyTorch {torch} cannot use it", advice, facts)
    return Finding("gpu", "ok", text, "", facts)


def _size(size: float) -> str:
    return f"{size / GB:,.1f} GiB" if size >= GB else f"{size / (1 << 20):,.0f} MiB"
