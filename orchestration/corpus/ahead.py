"""Work done in threads beside those who ask for it: reading and decompressing beside tokenising, both beside writing.

Decompression, hashes and the tokenizer library let other threads run meanwhile. Results come in order, and only so many
are made ahead as keep the threads busy, so memory stays as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = 1,
    finish: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """``map`` with ``threads`` calls at work before their results are asked for, and as many results waiting.

    The items are taken in the thread that asks. With one thread ``finish`` is called in it at the end, however that
    comes. What ``function`` raises is raised where its result would have come.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            if finish is not None:
                pool.submit(finish)


@contextmanager
def chunks_ahead(file: BinaryIO, size: int) -> Iterator[Iterator[bytes]]:
    """The file in pieces of ``size`` bytes, the next one read while the one before is looked at."""
    with ThreadPoolExecutor(1) as pool:  # which ends only once nothing is being read from the file any more

        def pieces() -> Iterator[bytes]:
            coming = pool.submit(file.read, size)
            while chunk := coming.result():
                coming = pool.submit(file.read, size)
                yield chunk

        yield pieces()
