"""The CPU kernel: draw, run and tokenise one sequence at a time, everything in the first-level cache.

`build_kernel` closes over the spec's constants, so shapes are compile-time; numba caches the machine code on disk by
their values. The layout and its instruction count are in docs/decisions/0104-cpu-kernel.md.
"""

from collections.abc import Callable

import numba
import numpy as np

from generator import arm_instructions, philox, tables, vector_code
from generator.machine_code import checksum, compiled
from generator.nca import dots, simd
from generator.nca.kernel_plan import KernelPlan
from generator.nca.simd import (
    INDEX_LANES,
    LANES,
    add_row,
    as_factor,
    fold_row,
    hidden_units,
    join_neighbors,
    next_colors,
)
from generator.tables import COLOR_Q, WEIGHT_Q

_SOURCES = checksum(arm_instructions, dots, philox, simd, tables, vector_code)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_M0, _M1 = np.uint64(philox.MUL_0), np.uint64(philox.MUL_1)
_W0, _W1 = np.uint64(philox.WEYL_0), np.uint64(philox.WEYL_1)
_RULE, _LOGITS, _CELLS, _NOISE = philox.RULE, philox.COLOR_LOGITS, philox.CELLS, philox.NOISE


@numba.njit(nogil=True, inline="never")
def _fill_words(seed, purpose, number, attempt, first_block, blocks, out_W):
    """Write 4 * blocks words of a stream (uint32), from block `first_block` on."""
    address = np.uint64(attempt) * np.uint64(256) + np.uint64(purpose)
    low, high = np.uint64(number) & _LOW, np.uint64(number) >> _32
    for block in range(blocks):
        c0, c1, c2, c3 = np.uint64(first_block + block), address, low, high
        k0, k1 = np.uint64(seed) & _LOW, np.uint64(seed) >> _32
        for _ in range(10):
            p0, p1 = _M0 * c0, _M1 * c2
            c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        out_W[4 * block] = c0
        out_W[4 * block + 1] = c1
        out_W[4 * block + 2] = c2
        out_W[4 * block + 3] = c3


def build_kernel(plan: KernelPlan) -> Callable[..., int]:
    """`kernel_function` as machine code of this processor's. It releases the GIL."""
    return compiled(kernel_function(plan), boundscheck=False)


def kernel_function(plan: KernelPlan) -> Callable[..., int]:
    """kernel(seed, ids, attempts, groups, tries, gumbel, scratch, tokens, scored): ids to tries int64 [N], gumbel int32
    [4096], tokens uint16 or uint32 [N, seq_len] and scored int32 [N, score_tokens], which it writes. Returns a
    checksum of the sources it is compiled from."""
    (colors, channels, embed, hidden, wrap, uniform, noisy) = plan.rule
    (table_shift, hidden_shift, identity, color_bits) = plan.integers
    (cells, width, _, pad_first, pad_last, neighbors) = plan.geometry
    (members, group_count, rows, padded) = plan.tables
    (burn_in, stride, frames, seq_len, patches, patch_cells, alphabet, score_tokens) = plan.output
    row_at, pad_source, patch_at, joins = plan.row_at, plan.pad_source, plan.patch_at, plan.joins
    sources = _SOURCES
    chunks = padded // LANES
    lanes_cells = -(-cells // LANES) * LANES
    conv_count, first_count = neighbors * channels * embed, embed * hidden
    rule_blocks = -(-(conv_count + first_count + hidden * colors) // 16)
    noise_groups = -(-colors // 8)
    index_stride = joins[1]
    fold_sizes = (embed, padded, table_shift)
    hidden_sizes = (group_count, rows * padded, index_stride, chunks, lanes_cells, hidden_shift)
    color_sizes = (colors, chunks, lanes_cells, color_bits, identity, noisy)

    def kernel(seed, ids, attempts, groups, tries, gumbel, scratch, tokens, scored):
        words, stream, halves = scratch.words, scratch.stream, scratch.halves
        weights, near, tables = scratch.weights, scratch.near, scratch.tables
        second, packed, cumulative = scratch.second, scratch.packed, scratch.cumulative
        conv, first = scratch.conv, scratch.first
        index, units, now, pad, noise = scratch.entries, scratch.units, scratch.now, scratch.pad, scratch.noise

        for n in range(len(ids)):
            # The rule: bytes to weights, the two first layers folded, then neighbours joined into groups.
            _fill_words(seed, _RULE, groups[n], tries[n], 0, rule_blocks, words)
            for i in range(16 * rule_blocks):
                weights[i] = WEIGHT_Q[stream[i]]
            for e in range(embed):
                for h in range(hidden):
                    first[e * padded + h] = weights[conv_count + e * hidden + h]
            for k in range(neighbors):
                for c in range(colors):
                    for e in range(embed):
                        base = k * channels * embed + e
                        value = np.int16(weights[base + (c + wrap) * embed])
                        if wrap:
                            if c == colors - 1:
                                value += np.int16(weights[base])
                            if c == 0:
                                value += np.int16(weights[base + (channels - 1) * embed])
                        conv[e] = value
                    extra = np.int16(1 << hidden_shift >> 1) if k == 0 else np.int16(0)
                    fold_row(near, (k * colors + c) * padded, conv, 0, first, extra, fold_sizes)  # type: ignore[call-arg]
            for g in range(group_count):
                base = g * rows * padded
                for h in range(padded):
                    tables[base + h] = 0
                filled = 1
                for k in range(g * members, min((g + 1) * members, neighbors)):
                    for back in range(colors):
                        c = colors - 1 - back
                        for r in range(filled):
                            to, origin = base + (c * filled + r) * padded, base + r * padded
                            add_row(tables, to, origin, near, (k * colors + c) * padded, padded)  # type: ignore[call-arg]
                    filled *= colors
            for h in range(hidden):
                for c in range(colors):
                    second[c, h] = as_factor(weights[conv_count + first_count + h * colors + c])  # type: ignore[call-arg]

            # Initial cells.
            if not uniform:
                _fill_words(seed, _LOGITS, ids[n], attempts[n], 0, (colors + 15) // 16, words)
                total = np.uint64(0)
                for c in range(colors):
                    total += np.uint64(COLOR_Q[stream[c]])
                    cumulative[c] = total
            _fill_words(seed, _CELLS, ids[n], attempts[n], 0, (cells + 3) // 4, words)
            for x in range(cells):
                if uniform:
                    now[x] = (np.uint64(words[x]) * np.uint64(colors)) >> _32
                else:
                    value64 = (np.uint64(words[x]) * cumulative[colors - 1]) >> _32
                    color = 0
                    for c in range(colors - 1):
                        color += value64 >= cumulative[c]
                    now[x] = color

            step = 0
            for frame in range(frames):
                until = burn_in + frame * stride
                while step < until:
                    for r in range(len(pad_source)):
                        at, source = r * (width + 2), pad_source[r]
                        pad[at] = now[source + width - 1]
                        for w in range(width):
                            pad[at + 1 + w] = now[source + w]
                        pad[at + 1 + width] = now[source]
                    for p in range(pad_first, pad_last, INDEX_LANES):
                        join_neighbors(pad, index, p, joins)  # type: ignore[call-arg]
                    for r in range(len(row_at)):
                        for w in range(width):
                            hidden_units(tables, index, row_at[r] + w, units, r * width + w, hidden_sizes)  # type: ignore[call-arg]
                    if noisy:
                        for g in range(noise_groups):
                            block = (step * noise_groups + g) * cells
                            _fill_words(seed, _NOISE, ids[n], attempts[n], block, cells, words)
                            for c in range(8 * g, min(8 * g + 8, colors)):
                                for x in range(cells):
                                    noise[c * lanes_cells + x] = gumbel[halves[8 * x + c - 8 * g] >> 4]
                    for x in range(0, lanes_cells, LANES):
                        next_colors(units, packed, now, noise, now, x, color_sizes)  # type: ignore[call-arg]
                    step += 1
                start = frame * (patches + 2)
                if start < seq_len:
                    tokens[n, start] = alphabet
                for q in range(patches):
                    token = 0
                    for j in range(patch_cells):
                        token = token * colors + now[patch_at[q, patch_cells - 1 - j]]
                    if start + 1 + q < seq_len:
                        tokens[n, start + 1 + q] = token
                    if frame * patches + q < score_tokens:
                        scored[n, frame * patches + q] = token
                if start + 1 + patches < seq_len:
                    tokens[n, start + 1 + patches] = alphabet + 1
        return sources

    return kernel
