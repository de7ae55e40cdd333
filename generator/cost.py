"""What a spec costs, by arithmetic alone and before any of it is computed: cell updates, operations, bytes.

The numbers are upper bounds of the plain NumPy path's memory and of every path's work. Callers that simulate many
candidates do so in slices of `slice_size`, so that no grid, family or backend needs more memory than one candidate or
SLICE_BYTES, whichever is more, and so that a single call ends (and an interrupt is seen) within seconds.
"""

from dataclasses import dataclass

from generator.families.iid import IidSpec
from generator.families.linear_rnn import LinearRnnSpec
from generator.families.shuffled import ShuffledSpec
from generator.lattice.spec import LatticeSpec
from generator.nca.lattice import neighbor_offsets
from generator.nca.spec import NcaSpec
from generator.score import IID_SAMPLES
from generator.spec import BaseSpec, GridSpec, SequenceSpec

SLICE_BYTES = 128 << 20
# One core does about 10**10 of the kernel's small-integer operations a second: a slice takes some two seconds.
SLICE_OPERATIONS = 2 * 10**10
DEVICE_BYTES = 1 << 30

_RANDOM_WORD_BYTES = 60  # a Philox word, its 64-bit counters and its mapping to an integer
# Of one cell update of a lattice: its weights are known by their digest alone, so these are of a large one.
_LATTICE_OPERATIONS, _LATTICE_CHANNELS = 10_000, 16
_OPERATIONS_PER_SCORED_TOKEN = 50_000  # gzip level 9 of four bytes at its slowest: long noise of few colours


@dataclass(frozen=True)
class Cost:
    """Of one candidate: cell updates (0 for families without a grid), operations, and bytes of working memory; of these
    ``shared`` are taken once by a call, however many candidates it simulates."""

    updates: int
    operations: int
    bytes: int
    shared: int = 0


def candidate_cost(spec: BaseSpec) -> Cost:
    """The cost of simulating and scoring one candidate."""
    if isinstance(spec, ShuffledSpec):
        base = candidate_cost(spec.base)
        sorting = spec.seq_len * (2 * _RANDOM_WORD_BYTES + 48)
        return Cost(base.updates, base.operations + 200 * spec.seq_len, base.bytes + sorting, base.shared)
    kept = output_bytes(spec)
    scoring = _OPERATIONS_PER_SCORED_TOKEN * spec.score_tokens
    if isinstance(spec, GridSpec):
        return _grid_cost(spec, kept, scoring)
    assert isinstance(spec, SequenceSpec)
    weights = spec.weights * (24 + _RANDOM_WORD_BYTES // 4) if isinstance(spec, LinearRnnSpec) else 0
    return Cost(0, spec.operations + scoring, kept + spec.words * _RANDOM_WORD_BYTES + weights)


def _grid_cost(spec: GridSpec, kept: int, scoring: int) -> Cost:
    drawn = spec.frames * spec.cells
    framing = 10 * drawn  # frames, their cells as int32 beside each patch, and their tokens
    if isinstance(spec, IidSpec):
        return Cost(drawn, (100 + 10 * spec.colors) * drawn + scoring, kept + framing + drawn * _RANDOM_WORD_BYTES)
    steps = getattr(spec, "burn_in", 0) + (spec.frames - 1) * getattr(spec, "stride", 1)
    updates = steps * spec.cells
    if isinstance(spec, LatticeSpec):
        # Candidates come one after the other, so a cell's own weights and sums are there once; its state, and what is
        # drawn of it, is there for each.
        shared = 8 * _LATTICE_CHANNELS * spec.cells * 200
        words = spec.cells * (2 * _RANDOM_WORD_BYTES + 8 * _LATTICE_CHANNELS)
        return Cost(updates, _LATTICE_OPERATIONS * updates + scoring, kept + framing + words + shared, shared)
    if not isinstance(spec, NcaSpec):
        return Cost(updates, 100 * updates + scoring, kept + framing + spec.cells * _RANDOM_WORD_BYTES)
    neighbors = len(neighbor_offsets(len(spec.grid), spec.neighborhood))
    each = spec.hidden * (neighbors + spec.colors)
    noise = 8 * -(-spec.colors // 8) if spec.temperature else 0  # random colours drawn for each cell and step
    weights = neighbors * spec.colors * (spec.embed + spec.hidden) + spec.embed * spec.hidden
    memory = spec.cells * (24 * (spec.hidden + spec.colors) + _RANDOM_WORD_BYTES * (1 + noise)) + 64 * weights
    operations = updates * (each + 20 * noise) + weights * spec.embed + scoring
    return Cost(updates, operations, kept + framing + memory)


def output_bytes(spec: BaseSpec) -> int:
    """Bytes of what every backend returns for one candidate: tokens, scored content, and its compressed copy."""
    return spec.token_dtype.itemsize * spec.seq_len + 12 * spec.score_tokens


def slice_size(spec: BaseSpec) -> int:
    """How many candidates one call may simulate at most; at least 1."""
    cost = candidate_cost(spec)
    by_memory = (SLICE_BYTES - cost.shared) // (cost.bytes - cost.shared)
    return max(1, min(by_memory, SLICE_OPERATIONS // cost.operations))


def device_batch(spec: BaseSpec, most: int) -> int:
    """How many candidates a device may return in one call; at least 1, at most `most`."""
    return max(1, min(most, DEVICE_BYTES // output_bytes(spec)))


def least_check_cost(spec: BaseSpec, enough: int) -> Cost:
    """The least that accepting `enough` candidates takes (with several sequences per rule: as many rules), however
    willing the band. The bytes are those of one slice and of the sequences that one rule's group holds."""
    cost = candidate_cost(spec)
    count = enough * spec.rule_group
    yardstick = IID_SAMPLES * _OPERATIONS_PER_SCORED_TOKEN * spec.score_tokens
    held = 4 * spec.rule_group * (spec.token_dtype.itemsize * spec.seq_len + 32) if spec.rule_group > 1 else 0
    return Cost(count * cost.updates, count * cost.operations + yardstick, max(cost.bytes, SLICE_BYTES) + held)
