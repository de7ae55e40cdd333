"""The CUDA kernel: one program runs whole sequences, from Philox to tokens, in one launch.

Cells live in registers, spread over the program's threads; neighbours are fetched by `tl.gather` (shared memory). The
folded table of the program's rule is kept in a slot of `tables`, small enough to stay in the first-level cache; tokens
are the only other writes. The second layer is a float16 product with float32 sums: hidden units are at most 255 and
weights at most 62, so every product and sum is an exact integer below 2**24, in any order.
"""

# mypy: disable-error-code="no-untyped-def"
# Parameters are Triton's traced values; annotations other than `tl.constexpr` would change what Triton compiles.

import triton
import triton.language as tl


@triton.jit
def philox(seed_low, seed_high, c0, c1, c2, c3):
    """The four words of the counters (c0, c1, c2, c3), all uint32 tensors of one shape."""
    k0, k1 = seed_low, seed_high
    for _ in tl.static_range(10):
        high0, low0 = (
            tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32)),
            c0 * tl.full(c0.shape, 0xD2511F53, tl.uint32),
        )
        high1, low1 = (
            tl.umulhi(c2, tl.full(c0.shape, 0xCD9E8D57, tl.uint32)),
            c2 * tl.full(c0.shape, 0xCD9E8D57, tl.uint32),
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def word_at(index, purpose: tl.constexpr, key0, key1, attempt, low, high):
    """Word `index` (int32 tensor) of a stream, as uint32."""
    zero = (index * 0).to(tl.uint32)
    address = (attempt * 256 + purpose).to(tl.uint32)
    w0, w1, w2, w3 = philox(key0, key1, (index // 4).to(tl.uint32), zero + address, zero + low, zero + high)
    part = index % 4
    return tl.where(part < 2, tl.where(part == 0, w0, w1), tl.where(part == 2, w2, w3))


@triton.jit
def byte_at(index, purpose: tl.constexpr, key0, key1, attempt, low, high):
    """Byte `index` of a stream, as int32."""
    word = word_at(index // 4, purpose, key0, key1, attempt, low, high)
    return ((word >> ((index % 4) * 8).to(tl.uint32)) & 255).to(tl.int32)


@triton.jit
def weight_at(index, mask, weight_q, key0, key1, attempt, low, high):
    """Weight `index` of the RULE stream, int32; 0 where masked."""
    return tl.load(weight_q + byte_at(index, 0, key0, key1, attempt, low, high), mask=mask, other=0).to(tl.int32)


@triton.jit
def draw_table(
    table,
    weight_q,
    key0,
    key1,
    attempt,
    low,
    high,
    NEIGHBORS: tl.constexpr,
    COLORS: tl.constexpr,
    CHANNELS: tl.constexpr,
    EMBED: tl.constexpr,
    HIDDEN: tl.constexpr,
    HIDDEN_PAD: tl.constexpr,
    WRAP: tl.constexpr,
    TABLE_SHIFT: tl.constexpr,
    HIDDEN_SHIFT: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the folded table, int16 [neighbours * colours, padded hidden]; neighbour 0 holds the rounding term."""
    units = tl.arange(0, HIDDEN_PAD)
    unit_mask = units < HIDDEN
    for first in range(0, NEIGHBORS * COLORS, ROWS):
        row = first + tl.arange(0, ROWS)
        row_mask = row < NEIGHBORS * COLORS
        neighbor, color = row // COLORS, row % COLORS
        total = tl.zeros([ROWS, HIDDEN_PAD], tl.int32)
        for e in range(EMBED):
            base = neighbor * CHANNELS * EMBED + e
            conv = weight_at(base + (color + WRAP) * EMBED, row_mask, weight_q, key0, key1, attempt, low, high)
            if WRAP:
                left = row_mask & (color == COLORS - 1)
                conv += weight_at(base, left, weight_q, key0, key1, attempt, low, high)
                right = row_mask & (color == 0)
                conv += weight_at(base + (CHANNELS - 1) * EMBED, right, weight_q, key0, key1, attempt, low, high)
            at = NEIGHBORS * CHANNELS * EMBED + e * HIDDEN + units
            layer = weight_at(at, unit_mask, weight_q, key0, key1, attempt, low, high)
            total += conv[:, None] * layer[None, :]
        total = (total + ((1 << TABLE_SHIFT) >> 1)) >> TABLE_SHIFT
        total += tl.where(neighbor == 0, (1 << HIDDEN_SHIFT) >> 1, 0)[:, None]
        where = row[:, None] * HIDDEN_PAD + units[None, :]
        tl.store(table + where, total.to(tl.int16), mask=row_mask[:, None])


@triton.jit
def gumbel_at(gumbel, cell, color, step, key0, key1, attempt, low, high, CELLS: tl.constexpr, COLORS: tl.constexpr):
    """Noise int32 [cells, colours] of one step: a half word's top 12 bits looked up in the Gumbel table."""
    groups: tl.constexpr = (COLORS + 7) // 8
    block = ((step * groups + color[None, :] // 8) * CELLS + cell[:, None]).to(tl.uint32)
    zero = block * 0
    address = (attempt * 256 + 3).to(tl.uint32)
    w0, w1, w2, w3 = philox(key0, key1, block, zero + address, zero + low, zero + high)
    part = (color[None, :] % 8) // 2
    word = tl.where(part < 2, tl.where(part == 0, w0, w1), tl.where(part == 2, w2, w3))
    return tl.load(gumbel + ((word >> ((color[None, :] % 2) * 16 + 4).to(tl.uint32)) & 4095).to(tl.int32))


@triton.jit
def run_sequences(
    tokens,
    tables,
    ids_low,
    ids_high,
    attempts,
    groups_low,
    groups_high,
    tries,
    key0_at,
    weight_q,
    color_q,
    gumbel,
    neighbor_at,
    patch_at,
    count,
    NEIGHBORS: tl.constexpr,
    COLORS: tl.constexpr,
    CHANNELS: tl.constexpr,
    EMBED: tl.constexpr,
    HIDDEN: tl.constexpr,
    HIDDEN_PAD: tl.constexpr,
    COLOR_PAD: tl.constexpr,
    COLOR_BITS: tl.constexpr,
    WRAP: tl.constexpr,
    UNIFORM: tl.constexpr,
    NOISY: tl.constexpr,
    IDENTITY: tl.constexpr,
    TABLE_SHIFT: tl.constexpr,
    HIDDEN_SHIFT: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BURN_IN: tl.constexpr,
    STRIDE: tl.constexpr,
    FRAMES: tl.constexpr,
    PATCHES: tl.constexpr,
    PATCH_PAD: tl.constexpr,
    PATCH_CELLS: tl.constexpr,
    ALPHABET: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Sequences program, program + programs, ... of `count`: tokens int16 (the bits of uint16), or int32 where WIDE,
    [count, FRAMES * (PATCHES + 2)].

    ids (low and high words), attempts, groups and tries: int32 [count]; key0_at: the seed's two words; the positions of
    neighbours int32 [NEIGHBORS, BLOCK] and of patch cells int32 [PATCH_CELLS, PATCH_PAD].
    """
    slot = tl.program_id(0)
    table = tables + slot * (NEIGHBORS * COLORS * HIDDEN_PAD)
    key0 = tl.load(key0_at).to(tl.uint32)
    key1 = tl.load(key0_at + 1).to(tl.uint32)
    cell = tl.arange(0, BLOCK)
    color = tl.arange(0, COLOR_PAD)
    unit = tl.arange(0, HIDDEN_PAD)
    patch = tl.arange(0, PATCH_PAD)
    for n in range(slot, count, tl.num_programs(0)):
        # The rule.
        low, high = tl.load(groups_low + n).to(tl.uint32), tl.load(groups_high + n).to(tl.uint32)
        attempt = tl.load(tries + n)
        # The slot still serves the sequence before until every thread is here.
        tl.debug_barrier()
        draw_table(
            table, weight_q, key0, key1, attempt, low, high, NEIGHBORS, COLORS, CHANNELS, EMBED, HIDDEN, HIDDEN_PAD,
            WRAP, TABLE_SHIFT, HIDDEN_SHIFT, ROWS,
        )  # fmt: skip
        at = NEIGHBORS * CHANNELS * EMBED + EMBED * HIDDEN + unit[:, None] * COLORS + color[None, :]
        second_mask = (unit < HIDDEN)[:, None] & (color < COLORS)[None, :]
        second = weight_at(at, second_mask, weight_q, key0, key1, attempt, low, high).to(tl.float16)
        tl.debug_barrier()

        # Initial cells.
        low, high = tl.load(ids_low + n).to(tl.uint32), tl.load(ids_high + n).to(tl.uint32)
        attempt = tl.load(attempts + n)
        word = word_at(cell, 2, key0, key1, attempt, low, high)
        if UNIFORM:
            state = tl.umulhi(word, tl.full([BLOCK], COLORS, tl.uint32)).to(tl.int32)
        else:
            share = tl.load(color_q + byte_at(color, 1, key0, key1, attempt, low, high), mask=color < COLORS, other=0)
            cumulative = tl.cumsum(share, 0)
            value = tl.umulhi(word, tl.zeros([BLOCK], tl.uint32) + tl.sum(share, 0).to(tl.uint32)).to(tl.int32)
            passed = (value[:, None] >= cumulative[None, :]) & (color < COLORS - 1)[None, :]
            state = tl.sum(passed.to(tl.int32), 1)

        step = 0
        for frame in range(FRAMES):
            updates = STRIDE
            if frame == 0:
                updates = BURN_IN
            for _ in range(updates):
                total = tl.zeros([BLOCK, HIDDEN_PAD], tl.int32)
                for k in tl.static_range(NEIGHBORS):
                    seen = tl.gather(state, tl.load(neighbor_at + k * BLOCK + cell), 0)
                    entry = (k * COLORS + seen[:, None]) * HIDDEN_PAD + unit[None, :]
                    total += tl.load(table + entry).to(tl.int32)
                hidden = tl.minimum(tl.maximum(total >> HIDDEN_SHIFT, 0), 255).to(tl.float16)
                logits = tl.dot(hidden, second, out_dtype=tl.float32).to(tl.int32)
                if IDENTITY != 0:
                    logits += tl.where(state[:, None] == color[None, :], IDENTITY, 0)
                if NOISY:
                    logits += gumbel_at(gumbel, cell, color, step, key0, key1, attempt, low, high, CELLS, COLORS)
                coded = (logits << COLOR_BITS) + (COLORS - 1 - color)[None, :]
                best = tl.max(tl.where((color < COLORS)[None, :], coded, -2147483648), 1)
                state = COLORS - 1 - (best & ((1 << COLOR_BITS) - 1))
                step += 1
            out = tokens + (n * FRAMES + frame) * (PATCHES + 2)
            token = tl.zeros([PATCH_PAD], tl.int32)
            for back in tl.static_range(PATCH_CELLS):
                place = tl.load(patch_at + (PATCH_CELLS - 1 - back) * PATCH_PAD + patch)
                token = token * COLORS + tl.gather(state, place, 0)
            if not WIDE:
                token = token.to(tl.uint16)
            tl.store(out + 1 + patch, token, mask=patch < PATCHES)
            tl.store(out, ALPHABET)
            tl.store(out + PATCHES + 1, ALPHABET + 1)
