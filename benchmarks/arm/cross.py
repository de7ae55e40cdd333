"""Functions compiled by numba for a processor that this machine has not: to read their code, not to run it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from numba.core import codegen, compiler
from numba.core.registry import cpu_target


@dataclass(frozen=True)
class Target:
    """A processor as LLVM names it."""

    processor: str
    features: str = ""
    triple: str = "aarch64-unknown-linux-gnu"


class _Codegen(codegen.AOTCPUCodegen):
    """Numba's own, for another target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        super().__init__("cross", target.processor)

    def _init(self, llvm_module: Any) -> None:
        native = codegen.ll.get_process_triple
        codegen.ll.get_process_triple = lambda: self._target.triple
        try:
            super()._init(llvm_module)
        finally:
            codegen.ll.get_process_triple = native

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = self._target.triple
        return module

    def _customize_tm_features(self) -> str:
        return self._target.features

    def magic_tuple(self) -> tuple[str, str, str]:
        return self._target.triple, self._target.processor, self._target.features


def context_for(target: Target) -> Any:
    """What numba hands to intrinsics that are compiled for ``target``."""
    return cpu_target.target_context.subtarget(_internal_codegen=_Codegen(target), aot_mode=True)


def assembly(function: Callable[..., Any], arguments: tuple[Any, ...], target: Target) -> str:
    """The code that numba makes of ``function`` with ``arguments`` of these types."""
    context = context_for(target)
    code = context.codegen()
    flags = compiler.Flags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    library = code.create_library(function.__name__)
    made = compiler.compile_extra(
        cpu_target.typing_context, context, function, arguments, None, flags, {}, library=library
    )
    return str(code._tm.emit_assembly(made.library._final_module))


def inner_loops(text: str) -> Iterator[Counter[str]]:
    """How often each instruction occurs in each loop that holds no other."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"(\.L[\w$.]+|L[\w$.]+):", line):
            labels[label[1]] = len(instructions)
        elif re.match(r"\s+[a-z]", line):
            instructions.append(line.strip())
    loops = set()
    for number, instruction in enumerate(instructions):
        jump = re.match(r"(?:b|cb|tb|j)\S*\s(?:.*\s)?(\.?L[\w$.]+)$", instruction)
        if jump and labels.get(jump[1], number + 1) <= number:
            loops.add((labels[jump[1]], number + 1))
    for first, last in sorted(loops):
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops):
            yield Counter(instruction.split()[0] for instruction in instructions[first:last])
