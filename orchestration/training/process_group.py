"""The process group of a training's ranks, as Ray Train sets it up, without PyTorch in the process of its controller.

Ray's own ``TorchConfig`` would do the same, but wherever it is unpickled it imports PyTorch, which takes seconds of the
time that a training needs to begin; the controller only passes on who is where.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray
from ray.train.backend import Backend, BackendConfig

if TYPE_CHECKING:
    from torch.distributed import TCPStore

# What PyTorch does with a process whose NCCL collective failed: end it, so that the attempt ends; Ray's choice as well.
NCCL_FAILURE, END_PROCESS = "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"
LEAVE_S = 30.0

_store: TCPStore | None = None  # of this process, which is a rank, until it has joined


@dataclass
class ProcessGroup(BackendConfig):
    """A group over ``backend`` ("gloo" or "nccl") in which a rank waits up to ``timeout_s`` for another."""

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        return _Ranks

    @property
    def train_func_context(self) -> Callable[[], AbstractContextManager[None]]:
        return _on_own_device


class _Ranks(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, ProcessGroup)
        ranks, world = range(len(worker_group)), len(worker_group)
        at = worker_group.execute_single_async
        address = ray.get([at(rank, _prepare, rank, world, backend_config) for rank in ranks])[0]
        ray.get([at(rank, _join, rank, world, backend_config, address) for rank in ranks])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        del backend_config
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=LEAVE_S)


def _prepare(rank: int, world: int, group: ProcessGroup) -> tuple[str, int] | None:
    """Load PyTorch, on all ranks at once; where rank 0 keeps what they tell each other to find together."""
    global _store
    from torch.distributed import TCPStore

    if rank:
        return None
    host = ray.util.get_node_ip_address()
    _store = TCPStore(host, 0, world, is_master=True, wait_for_workers=False, timeout=_timeout(group))
    return host, _store.port


def _join(rank: int, world: int, group: ProcessGroup, address: tuple[str, int]) -> None:
    global _store
    import torch.distributed as dist

    if group.backend == "nccl":
        os.environ.setdefault(NCCL_FAILURE, END_PROCESS)
    store, _store = _store or dist.TCPStore(*address, world, is_master=False, timeout=_timeout(group)), None
    dist.init_process_group(group.backend, store=store, rank=rank, world_size=world, timeout=_timeout(group))


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _timeout(group: ProcessGroup) -> timedelta:
    return timedelta(seconds=group.timeout_s)


@contextmanager
def _on_own_device() -> Any:
    """Around a rank's work: a GPU of its own, if it has one, is PyTorch's current device."""
    import torch

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        if (device := get_device()).type == "cuda":
            torch.cuda.set_device(device)
    yield
