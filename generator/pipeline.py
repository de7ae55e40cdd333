"""Rejection beside a device: it simulates large batches while CPU threads score the ones before.

The order in which candidates come back changes nothing: each sequence takes its least accepted attempt, and its
attempts are made one after another.
"""

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from generator.accept import MAX_ATTEMPTS, Candidates, Simulate, empty, hopeless, judge, put, take
from generator.cost import device_batch
from generator.spec import BaseSpec, Simulated

DEVICE_BATCH = 16_384
SCORE_SLICE = 256


def search_beside(spec: BaseSpec, simulate: Simulate, ids_N: np.ndarray, workers: int) -> Candidates:
    """The accepted candidate of every id, like `accept.search` for one sequence per rule."""
    found = empty(spec, len(ids_N))
    fresh = deque(np.array_split(np.arange(len(ids_N)), -(-len(ids_N) // device_batch(spec, DEVICE_BATCH))))
    again: list[tuple[np.ndarray, np.ndarray]] = []
    scoring: set[Future[tuple[np.ndarray, Candidates]]] = set()

    def score(where: np.ndarray, attempts: np.ndarray, made: Simulated) -> tuple[np.ndarray, Candidates]:
        return where, judge(spec, attempts, made)

    with ThreadPoolExecutor(workers) as pool:
        while fresh or again or scoring:
            waiting = sum(len(where) for where, _ in again)
            if fresh and waiting < DEVICE_BATCH:
                where = fresh.popleft()
                attempts = np.zeros(len(where), dtype=np.int64)
            elif waiting and (waiting >= DEVICE_BATCH or not scoring):
                where, attempts = (np.concatenate(part) for part in zip(*again, strict=True))
                again.clear()
            else:
                where = attempts = np.empty(0, dtype=np.int64)
            if len(where):
                made = simulate(ids_N[where], attempts)
                for start in range(0, len(where), SCORE_SLICE):
                    piece = slice(start, start + SCORE_SLICE)
                    judged = None if made.judged is None else made.judged[piece]
                    part = Simulated(made.tokens[piece], made.content[piece], judged)
                    scoring.add(pool.submit(score, where[piece], attempts[piece], part))
            # Having launched nothing, there is nothing better to do than to wait for a score.
            done, scoring = wait(scoring, timeout=0 if len(where) else None, return_when=FIRST_COMPLETED)
            for future in done:
                where, result = future.result()
                put(found, where[result.accepted], take(result, result.accepted))
                failed = ~result.accepted
                if failed.any():
                    if result.attempts[failed].max() + 1 >= MAX_ATTEMPTS:
                        raise hopeless(spec, int(ids_N[where[failed]].min()))
                    again.append((where[failed], result.attempts[failed] + 1))
    return found
