"""datalake writes, commits, plans.

Objects are created once and never changed; version logs order them; manifests name them.
The plan turns (manifests, mixture, seed, step) into rows.
"""

from datalake.ambient import Ambient
from datalake.canonical import canonical_json, digest_of, sha256_hex
from datalake.caretaker import Caretaker, DamagePolicy
from datalake.changes import Change, FieldChange, diff_specs
from datalake.checkpoints import Checkpoint, SkippedCheckpoint
from datalake.datasets import DatasetRepository, DatasetVersion
from datalake.errors import DatalakeError
from datalake.healing import Healer, HealReport, Repair, heal_dataset
from datalake.lake import Lake
from datalake.ledger import Ledger
from datalake.lineage import lineage
from datalake.manifest import Manifest, content_digest, load_manifest, save_manifest
from datalake.models import ModelRepository, ModelVersion
from datalake.names import check_name, parse_ref
from datalake.node_cache import NodeCache
from datalake.plan import Plan, PlanSource, Position
from datalake.probe import ProbeReport, probe_store
from datalake.promise import Promise
from datalake.pulses import Pulse
from datalake.reader import DatasetReader
from datalake.registry import ParameterRegistry, ParameterVersion
from datalake.run_repository import RunRepository
from datalake.runs import Run
from datalake.shards import ShardRef, read_shard, repair_shard, shard_ref_if_valid, write_shard
from datalake.source import Source, shard_key, shard_layout
from datalake.store import Store, open_store
from datalake.verdict import Verdict, read_verdict, record_verdict
from datalake.verify import RateLimit, ShardProblem, VerifyOptions, VerifyReport, verify_dataset

__all__ = [
    "Ambient",
    "Caretaker",
    "Change",
    "Checkpoint",
    "DamagePolicy",
    "DatalakeError",
    "DatasetReader",
    "DatasetRepository",
    "DatasetVersion",
    "FieldChange",
    "HealReport",
    "Healer",
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
    "Promise",
    "Pulse",
    "RateLimit",
    "Repair",
    "Run",
    "RunRepository",
    "ShardProblem",
    "ShardRef",
    "SkippedCheckpoint",
    "Source",
    "Store",
    "Verdict",
    "VerifyOptions",
    "VerifyReport",
    "canonical_json",
    "check_name",
    "content_digest",
    "diff_specs",
    "digest_of",
    "heal_dataset",
    "lineage",
    "load_manifest",
    "open_store",
    "parse_ref",
    "probe_store",
    "read_shard",
    "read_verdict",
    "record_verdict",
    "repair_shard",
    "save_manifest",
    "sha256_hex",
    "shard_key",
    "shard_layout",
    "shard_ref_if_valid",
    "verify_dataset",
    "write_shard",
]
