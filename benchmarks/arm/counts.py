"""Instructions per cell update in the code of the `paper` preset's kernel, by processor."""

from __future__ import annotations

from collections import Counter

from numba import typeof, types

from benchmarks.arm.cross import Target, assembly, inner_loops
from generator import load_preset
from generator.nca.kernel_plan import kernel_plan
from generator.nca.kernel_scratch import allocate
from generator.nca.numba_kernel import kernel_function
from generator.nca.simd import LANES
from generator.nca.spec import NcaSpec

MAXIMA = ("smax", "vpmaxsd", "pcmpgtd")
PACKS = ("sqshrun", "sqxtun", "vpackuswb", "packuswb")

TARGETS = (
    Target("cortex-a72"),
    Target("neoverse-n1"),
    Target("neoverse-v1"),
    Target("apple-m1"),
    Target("apple-m2"),
    Target("x86-64", "+sse2", "x86_64-unknown-linux-gnu"),
    Target("haswell", "+avx,+avx2,+fma,+bmi,+bmi2", "x86_64-unknown-linux-gnu"),
    Target("icelake-server", "+avx2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni", "x86_64-unknown-linux-gnu"),
)


def kernel_assembly(spec: NcaSpec, target: Target) -> str:
    """The code of a spec's kernel for a processor."""
    plan = kernel_plan(spec)
    one, two = (lambda kind: types.Array(kind, 1, "C")), (lambda kind: types.Array(kind, 2, "C"))
    places = (one(types.int64),) * 4
    results = (two(types.uint16), two(types.int32))
    arguments = (types.uint64, *places, one(types.int32), typeof(allocate(plan)), *results)
    return assembly(kernel_function(plan), arguments, target)


def layers(text: str) -> tuple[Counter[str], Counter[str]]:
    """The instructions of the loops over the hidden layer, as many cells as it packs, and over the second, LANES."""
    loops = list(inner_loops(text))
    second = max((loop for loop in loops if any(loop[name] for name in MAXIMA)), key=lambda loop: loop.total())
    packing = (loop for loop in loops if loop is not second and any(loop[name] for name in PACKS))
    hidden = min(packing, key=lambda loop: loop.total())
    return hidden, second


def print_counts() -> None:
    """One line a processor, and what the second layer is made of."""
    spec = load_preset("paper").model_copy(update={"band": None})
    assert isinstance(spec, NcaSpec)
    for target in TARGETS:
        hidden, second = layers(kernel_assembly(spec, target))
        common = ", ".join(f"{count} {name}" for name, count in second.most_common(8))
        cells = sum(hidden[name] for name in PACKS)  # some compilers write a whole row of them
        counted = f"hidden layer {hidden.total() / cells:.1f}, second layer {second.total() / LANES:.1f}"
        print(f"{target.processor}: {counted} instructions a cell update; of {LANES} cells' second layer: {common}")
