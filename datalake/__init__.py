"""Bytes and truth: objects that are created once, and logs that order them. No torch, no Ray.

    store/        objects on a local disk or S3: create if absent, retries, conformance
    log/          version logs: numbered entries, each created if absent
    shards/       Parquet files of sequences, and the manifests that name them
    registry/     parameter sets, datasets, models, tokens of access
    plan/         which rows which rank reads at which step
    reading/      verified rows of a manifest, through a cache of the node
    runs/         records, leases, heartbeats and checkpoints of runs
    maintenance/  verify, heal, collect garbage, import, export, lineage

The way of data: a table of rows becomes a shard (``shards``), its reference goes into a manifest, and
``registry.datasets`` commits that as a version of a log. To read, ``plan`` turns (manifests, mixture, seed, step, rank)
into row numbers, and ``reading`` fetches those rows and checks them against the manifest's digests.
"""

from datalake.canonical import canonical_json, digest_of, sha256_hex
from datalake.clock import System
from datalake.errors import DatalakeError
from datalake.lake import Lake
from datalake.log.changes import Change, FieldChange, diff_specs
from datalake.maintenance.damage_policy import DamagePolicy, Repairer
from datalake.maintenance.healing import Healer, HealReport, Repair, heal_dataset
from datalake.maintenance.ledger import Ledger
from datalake.maintenance.lineage import lineage
from datalake.maintenance.verify import RateLimit, ShardProblem, VerifyOptions, VerifyReport, verify_dataset
from datalake.names import check_name, parse_ref
from datalake.plan.plan import Plan, PlanSource, Position
from datalake.reading.computed import ComputedReader
from datalake.reading.node_cache import NodeCache
from datalake.reading.reader import DatasetReader
from datalake.reading.row_reader import RowReader
from datalake.registry.datasets import DatasetRepository, DatasetVersion
from datalake.registry.models import ModelRepository, ModelVersion
from datalake.registry.params import ParameterRegistry, ParameterVersion
from datalake.runs.checkpoints import Checkpoint, SkippedCheckpoint
from datalake.runs.heartbeat import Heartbeat
from datalake.runs.repository import RunRepository
from datalake.runs.run import Run
from datalake.shards.computed import RowGenerator
from datalake.shards.manifest import Manifest, content_digest, load_manifest, save_manifest
from datalake.shards.shards import ShardRef, find_shard, read_shard, repair_shard, write_shard
from datalake.shards.source import Source, shard_key, shard_layout
from datalake.store.conformance import Conformance, ProbeReport, read_conformance, record_conformance
from datalake.store.interface import Store
from datalake.store.open import open_store
from datalake.store.probe import probe_store

__all__ = [
    "Change",
    "Checkpoint",
    "ComputedReader",
    "Conformance",
    "DamagePolicy",
    "DatalakeError",
    "DatasetReader",
    "DatasetRepository",
    "DatasetVersion",
    "FieldChange",
    "HealReport",
    "Healer",
    "Heartbeat",
    "Lake",
    "Ledger",
    "Manifest",
    "ModelRepository",
    "ModelVersion",
    "NodeCache",
    "ParameterRegistry",
    "ParameterVersion",
    "Plan",
    "PlanSource",
    "Position",
    "ProbeReport",
    "RateLimit",
    "Repair",
    "Repairer",
    "RowGenerator",
    "RowReader",
    "Run",
    "RunRepository",
    "ShardProblem",
    "ShardRef",
    "SkippedCheckpoint",
    "Source",
    "Store",
    "System",
    "VerifyOptions",
    "VerifyReport",
    "canonical_json",
    "check_name",
    "content_digest",
    "diff_specs",
    "digest_of",
    "find_shard",
    "heal_dataset",
    "lineage",
    "load_manifest",
    "open_store",
    "parse_ref",
    "probe_store",
    "read_conformance",
    "read_shard",
    "record_conformance",
    "repair_shard",
    "save_manifest",
    "sha256_hex",
    "shard_key",
    "shard_layout",
    "verify_dataset",
    "write_shard",
]
