"""Near-duplicates among surveyed documents, by the signatures that their survey took."""

from __future__ import annotations

from collections.abc import Iterator

from orchestration.console.foreign import shown
from orchestration.corpus.documents import FileSurvey
from orchestration.corpus.places import LeftOut
from orchestration.corpus.screening import PERMUTATIONS, SIGNATURE, minhash

NEAR_DUPLICATE = "near-duplicates dropped"


def first_of_similar(
    files: list[tuple[FileSurvey, Iterator[int]]], threshold: float, left: LeftOut
) -> list[tuple[FileSurvey, Iterator[int]]]:
    """Each file with those of its given rows that no document kept before them is nearly the same as."""
    from datasketch import MinHashLSH  # brings scipy

    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    kept: list[tuple[FileSurvey, int]] = []
    found: list[tuple[FileSurvey, Iterator[int]]] = []
    for file, rows in files:
        mine = []
        for row in rows:
            values = minhash(file.signatures[SIGNATURE * row : SIGNATURE * (row + 1)])
            if not values.is_empty() and any(
                values.jaccard(minhash(_signature(kept[at]))) >= threshold for at in sorted(index.query(values))
            ):
                left.add(NEAR_DUPLICATE, shown(file.document(row).relative))
                continue
            index.insert(len(kept), values)
            kept.append((file, row))
            mine.append(row)
        found.append((file, iter(mine)))
    return found


def _signature(document: tuple[FileSurvey, int]) -> bytes:
    file, row = document
    return file.signatures[SIGNATURE * row : SIGNATURE * (row + 1)]
