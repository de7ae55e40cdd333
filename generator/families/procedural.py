"""Family `procedural`: small algorithms over random symbols, an input and then its output, one episode after another.

After the procedural tasks of arXiv 2505.22308 and 2601.21725. An episode is `input | output end`: the output slot has
`length` tokens, what the output leaves free is filled with `end`, and one `end` more closes it, so that all episodes of
a spec are equally long and the answers (the output slots) stand at known positions. Items x1 ... xL are drawn, with
replacement, from the `symbols` tokens that the sequence drew from the vocabulary (all of it by default).

| task | input | output |
| --- | --- | --- |
| identity | x1 ... xL | the same |
| reverse | x1 ... xL | xL ... x1 |
| sort | x1 ... xL | in ascending order of token ids |
| set | x1 ... xL | each distinct item once, in order of first occurrence |
| union | x1 ... xM , y1 ... yN with M = L/2 rounded down, M + N = L | set of both, one after the other |
| delete | x1 ... xL , d with d one of the items | the items other than d |
| stack | L operations: an item is pushed, `pop` takes the top away | what is left, the bottom first |

Tokens: items are 0 ... vocabulary - 1, then `|`, `end`, `,` and `pop`. Words of the SYMBOLS stream: one for each of
`symbols`, if given (a partial Fisher-Yates shuffle), then 2 length + 1 for each episode: for item or operation i word i
chooses the item and word length + i whether it is a `pop` (never of an empty stack); the last chooses d's place.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from generator.families.drawing import draw_distinct, draw_words, fill
from generator.spec import SequenceSpec, Simulated

TASKS = ("identity", "reverse", "sort", "set", "union", "delete", "stack")
IDENTITY, REVERSE, SORT, SET, UNION, DELETE, STACK = range(len(TASKS))


class ProceduralSpec(SequenceSpec):
    """Which task, on inputs of how many items of which alphabet; a sequence ends where `seq_len` cuts it."""

    family: Literal["procedural"] = "procedural"
    task: Literal["identity", "reverse", "sort", "set", "union", "delete", "stack"]
    vocabulary: int = Field(default=100, ge=1, le=65_532)
    symbols: int | None = Field(default=None, ge=1)
    length: int = Field(default=16, ge=2, le=16_384)
    pop_probability: float = Field(default=0.4, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.symbols is not None and self.symbols > self.vocabulary:
            raise ValueError(
                f"symbols: {self.symbols} distinct ones of a vocabulary of {self.vocabulary}; allowed are at most as "
                "many; lower `symbols` or leave it out"
            )
        if not self.answer_mask().any():
            raise ValueError(
                f"seq_len: {self.seq_len} tokens end before the first output, which begins at token "
                f"{self.input_tokens + 1}; raise `seq_len` or lower `length`"
            )
        return self

    @property
    def input_tokens(self) -> int:
        """Tokens before the bar."""
        return self.length + {"union": 1, "delete": 2}.get(self.task, 0)

    @property
    def episode_tokens(self) -> int:
        """Tokens of an episode: input, bar, output slot, end."""
        return self.input_tokens + self.length + 2

    @property
    def episodes(self) -> int:
        """Episodes that a sequence shows, the last perhaps in part."""
        return -(-self.seq_len // self.episode_tokens)

    @property
    def vocab_size(self) -> int:
        return self.vocabulary + 4

    @property
    def words(self) -> int:
        return (self.symbols or 0) + self.episodes * (2 * self.length + 1)

    @property
    def operations(self) -> int:
        # Sorting by insertion, and looking for an item among those found, take up to length² / 2 steps.
        return super().operations + 4 * self.vocabulary + self.episodes * self.length**2

    def answer_mask(self) -> np.ndarray:
        place = np.arange(self.seq_len) % self.episode_tokens
        return (place > self.input_tokens) & (place < self.episode_tokens - 1)


def work_out(
    words_NW: np.ndarray,
    chosen_NS: np.ndarray,
    task: int,
    vocabulary: int,
    length: int,
    pop_below: int,
    tokens_NT: np.ndarray,
) -> None:
    """Fill tokens from words [N, symbols + episodes (2 length + 1)] and each sequence's own symbols [N, symbols], none
    for the whole vocabulary. Plain Python, and the text that numba compiles."""
    bar, end, comma, pop = vocabulary, vocabulary + 1, vocabulary + 2, vocabulary + 3
    total, symbols = tokens_NT.shape[1], chosen_NS.shape[1]
    among = symbols if symbols > 0 else vocabulary
    items = np.empty(length, np.int64)
    result = np.empty(length, np.int64)
    episode = np.empty(2 * length + 4, np.int64)
    for n in range(tokens_NT.shape[0]):
        word, begin = symbols, 0
        while begin < total:
            size, found, deleted = 0, 0, np.int64(-1)
            for i in range(length):
                drawn = (np.int64(words_NW[n, word + i]) * among) >> 32
                items[i] = chosen_NS[n, drawn] if symbols > 0 else drawn
            if task == DELETE:
                deleted = items[(np.int64(words_NW[n, word + 2 * length]) * length) >> 32]
            for i in range(length):
                if task == UNION and i == length // 2:
                    episode[size] = comma
                    size += 1
                popped = task == STACK and found > 0 and words_NW[n, word + length + i] < pop_below
                episode[size] = pop if popped else items[i]
                size += 1
                if popped:
                    found -= 1
                    continue
                new = items[i] != deleted
                if task in (SET, UNION):
                    for k in range(found):
                        if result[k] == items[i]:
                            new = False
                if new:
                    place = found
                    if task in (SORT, REVERSE):
                        while place > 0 and (task == REVERSE or result[place - 1] > items[i]):
                            result[place] = result[place - 1]
                            place -= 1
                    result[place] = items[i]
                    found += 1
            if task == DELETE:
                episode[size] = comma
                episode[size + 1] = deleted
                size += 2
            episode[size] = bar
            size += 1
            for i in range(length):
                episode[size + i] = result[i] if i < found else end
            size += length
            episode[size] = end
            size += 1
            for i in range(min(size, total - begin)):
                tokens_NT[n, begin + i] = episode[i]
            begin += size
            word += 2 * length + 1


def simulate(spec: ProceduralSpec, seed: int, ids_N: np.ndarray, attempts_N: np.ndarray, backend: str) -> Simulated:
    """Tokens and scored content (the whole sequence)."""
    words = draw_words(spec, seed, ids_N, attempts_N)
    chosen = draw_distinct(words[:, : spec.symbols or 0], spec.vocabulary, backend)
    task, pop_below = TASKS.index(spec.task), int(spec.pop_probability * 2**32)
    return fill(work_out, spec, words, backend, chosen, task, spec.vocabulary, spec.length, pop_below)
