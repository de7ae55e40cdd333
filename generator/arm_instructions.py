"""Which dot products LLVM has for a 64-bit Arm processor.

What it says of a target's features does not tell: on Linux its list lacks these two, on macOS it may be empty, since
they follow from the processor's name. So it is asked to compile a sum of products, and its answer is read.
"""

from __future__ import annotations

import re
from functools import cache

import llvmlite.binding as llvm

_SUM = """
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)

define i32 @sum(<16 x i8> %left, <16 x i8> %right) {{
  %a = zext <16 x i8> %left to <16 x i32>
  %b = {extend} <16 x i8> %right to <16 x i32>
  %products = mul <16 x i32> %a, %b
  %sum = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %products)
  ret i32 %sum
}}
"""


@cache
def dot_instructions(triple: str, processor: str, features: str) -> frozenset[str]:
    """Those of `udot` (of unsigned bytes) and `usdot` (unsigned by signed) that the target has."""
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, features=features, opt=2)
    found: set[str] = set()
    for extend in ("zext", "sext"):
        module = llvm.parse_assembly(_SUM.format(extend=extend))
        module.triple = triple
        found |= set(re.findall(r"\b(?:udot|usdot)\b", machine.emit_assembly(module)))
    return frozenset(found)
