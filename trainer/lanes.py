"""Which order of rows a run asks for, in the terms of ``datalake.Plan``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datalake import Manifest
from datalake.plan.lanes import default_window
from datalake.reading.reader import CACHE_SHARDS
from datalake.shards.blocks import block_rows
from datalake.shards.roles import has_roles
from trainer.errors import ConfigError


def order_by_lanes(lanes: int | None, stored: Mapping[str, Manifest], row_bytes: Iterable[int]) -> dict[str, int]:
    """Arguments of ``Plan`` for an order by ``lanes``; none for None, which is version 1.

    ``stored`` are the datasets that come from a lake, ``row_bytes`` the bytes of a row of every dataset. ConfigError
    for a dataset that cannot be read in such an order, since its shards can only be fetched whole.
    """
    if lanes is None:
        return {}
    for ref, manifest in stored.items():
        whole = not manifest.is_computed and (manifest.source.format == 1 or has_roles(manifest))
        if whole and len(manifest.shards) > CACHE_SHARDS:
            kind = "with roles" if has_roles(manifest) else "of an older format"
            raise ConfigError(
                f"lanes = {lanes}: dataset {ref} has {len(manifest.shards)} shards {kind}, which cannot be "
                "read in part; leave lanes out, or make the dataset anew"
            )
    rows = min(block_rows(size) for size in row_bytes)
    return {"lanes": lanes, "block_rows": rows, "window_blocks": default_window(lanes)}
