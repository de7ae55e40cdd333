"""Machine code that torch's threads run without Python: for work so short that a change of threads in Python counts.

Python's lock goes to one thread after the other, which costs a tenth of a millisecond where two want it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trainer.processor import Body, in_threads, openmp


@lru_cache(maxsize=64)
def _function(address: int) -> Any:
    return Body(address)


def run_in_threads(address: int, given: int, threads: int) -> None:
    """The function for C at ``address`` called with ``given``, also an address, in so many of torch's threads.

    Each thread calls it once, or one thread for others: it takes shares of the work until none is left.
    """
    function = _function(address)
    begin = openmp() if threads > 1 else None
    if begin is not None:
        begin(function, given, threads, 0)
    elif threads > 1:
        in_threads(lambda *_: function(given), (), threads)
    else:
        function(given)
