"""Spec and indices in, sequences out: pure computation, no I/O, no Ray, no global state.

Sequence ``i`` of a spec is a function of (spec, seed, i). The NumPy reference defines the answer; every other backend
equals it bit for bit.

    presets/   specs under a name, in TOML
    families/  one file a family: dyck, shuffle-dyck, eca, nca, lattice, linear-rnn, tasks with exact answers
               (procedural, markov, needle, arithmetic, linear-function), and the controls iid and shuffled
    nca/       the automata: rules, reference, numba, SIMD and Triton kernels
    lattice/   trained 3-D lattices in whole numbers

The way of data: ``registry.parse_spec`` makes a spec; ``batch.generate_rows`` has the spec's family simulate candidates
(``philox`` is all the randomness), ``tokens`` turns states into token ids, ``score`` and ``accept`` keep the sequences
whose complexity lies in the spec's band, and the rows leave as a NumPy array or a table.
"""

from generator.accept import Acceptance
from generator.batch import check_acceptance, generate_batch, generate_rows, measure_acceptance
from generator.compute import GENERATOR_VERSION, SpecGenerator
from generator.errors import BackendError, BandError, GeneratorError, RangeError, SpecError
from generator.presets import list_presets, load_preset, preset_text
from generator.profile import profile_spec
from generator.registry import TASKS, GenerationSpec, answer_mask, parse_spec
from generator.tokens import decode_tokens, encode_frames, unigram_entropy_nats

__all__ = [
    "GENERATOR_VERSION",
    "TASKS",
    "Acceptance",
    "BackendError",
    "BandError",
    "GenerationSpec",
    "GeneratorError",
    "RangeError",
    "SpecError",
    "SpecGenerator",
    "answer_mask",
    "check_acceptance",
    "decode_tokens",
    "encode_frames",
    "generate_batch",
    "generate_rows",
    "list_presets",
    "load_preset",
    "measure_acceptance",
    "parse_spec",
    "preset_text",
    "profile_spec",
    "unigram_entropy_nats",
]
