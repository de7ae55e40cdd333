"""datalake writes, commits, plans.

Objects are created once and never changed; version logs order them; manifests name them.
The plan turns (manifests, mixture, seed, step) into rows.
"""

from datalake.ambient import Ambient
from datalake.datasets import DatasetRepository, DatasetVersion
from datalake.errors import DatalakeError
from datalake.lake import Lake
from datalake.manifest import Manifest, content_digest, load_manifest, save_manifest
from datalake.plan import Plan, PlanSource, Position
from datalake.reader import DatasetReader
from datalake.registry import ParameterRegistry, ParameterVersion
from datalake.shards import ShardRef, read_shard, repair_shard, shard_ref_if_valid, write_shard
from datalake.source import Source, shard_key, shard_layout
from datalake.store import Store, open_store

__all__ = [
    "Ambient",
    "DatalakeError",
    "DatasetReader",
    "DatasetRepository",
    "DatasetVersion",
    "Lake",
    "Manifest",
    "ParameterRegistry",
    "ParameterVersion",
    "Plan",
    "PlanSource",
    "Position",
    "ShardRef",
    "Source",
    "Store",
    "content_digest",
    "load_manifest",
    "open_store",
    "read_shard",
    "repair_shard",
    "save_manifest",
    "shard_key",
    "shard_layout",
    "shard_ref_if_valid",
    "write_shard",
]
