"""From an address to a store: the one module that knows the kinds of stores there are."""

from __future__ import annotations

from datalake.store.addresses import S3Address, parse_address
from datalake.store.interface import Store


def open_store(uri: str) -> Store:
    """Open the store at a folder (``path`` or ``file:///path``) or ``s3://bucket/prefix``, checking it before any work.

    Nothing is created: a local folder comes into being at the first write. Raises LakePathError,
    BucketNotFoundError, CredentialsError, StoreRefusedError or StoreUnavailableError.
    """
    store: Store
    address = parse_address(uri)
    if isinstance(address, S3Address):
        from datalake.store.s3 import S3Store  # boto3 takes 0.3 s to import; local lakes need not pay for it

        store = S3Store(address.uri)
    else:
        from datalake.store.local import LocalStore

        store = LocalStore(address)
    store.check()
    return store
