"""Blocks shared by threads: each is done once, by whichever threads there are, and a failure reaches who asked."""

import threading

import pytest
import torch

from trainer import processor


@pytest.fixture(params=["torch's threads", "a pool"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "a pool":
        monkeypatch.setattr(processor, "openmp", lambda: None)  # as where PyTorch's OpenMP goes by another name
    else:
        assert processor.openmp() is not None or not torch.backends.openmp.is_available()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("blocks", [0, 1, 2, 7])
def test_each_block_is_done_once(count: int, blocks: int) -> None:
    before = torch.get_num_threads()
    done: list[int] = []
    torch.set_num_threads(count)
    try:
        for _ in range(20):
            processor.in_threads(lambda _, first, last: done.extend(range(first, last)), ("any",), blocks)
    finally:
        torch.set_num_threads(before)
    assert sorted(done) == sorted(list(range(blocks)) * 20)


@pytest.mark.usefixtures("threads")
def test_two_threads_work_at_once() -> None:
    before = torch.get_num_threads()
    both = threading.Barrier(2, timeout=60)  # one thread alone would wait here for the other in vain
    torch.set_num_threads(2)
    try:
        processor.in_threads(lambda *_: both.wait(), (), 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_failure_in_a_thread_reaches_the_caller() -> None:
    def fails(first: int, last: int) -> None:
        if first:
            raise ValueError(f"blocks {first} to {last}")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="blocks 2 to 4"):
            processor.in_threads(fails, (), 4)
    finally:
        torch.set_num_threads(before)
