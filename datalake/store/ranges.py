"""Reading one large object in parts at once: a connection to an object store is slow, several are not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from datalake.store.interface import Store

PART_BYTES = 4 << 20
_CONNECTIONS = 4


def get_in_parts(store: Store, key: str, size: int, part_bytes: int = PART_BYTES) -> bytes:
    """All bytes of an object that is expected to be ``size`` long, in parts of ``part_bytes`` read in parallel.

    One byte more is asked for than expected, so that an object which is too long does not pass for a right one. If the
    object is replaced meanwhile (a repair), parts of both may come back: the caller checks the digest in any case.
    Local stores are read whole, and so are objects of up to two parts. Raises NotFoundError.
    """
    if size <= 2 * part_bytes or not store.uri.startswith("s3://"):
        return store.get(key)
    starts = range(0, size, part_bytes)
    lengths = [min(part_bytes, size - start) for start in starts]
    lengths[-1] += 1
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return b"".join(pool.map(lambda start, length: store.get_range(key, start, length), starts, lengths))
