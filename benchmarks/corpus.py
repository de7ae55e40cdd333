"""What `corpus add` makes of what its tokenizer library makes alone, on the same cores, turn by turn.

    python -m benchmarks.corpus [--megabytes N] [--turns N] [--vocabulary N] [--kinds plain,gz,zst] [--json]

The corpus is Python's own library in documents of 4,000 characters, as JSON lines. Each turn gives the library alone
the texts, in groups as large as ours, in memory; then adds the corpus from each kind of file into a new lake. Rates are
bytes of text by seconds of wall clock, all of `add_corpus` counted: trying the tokenizer, both readings, the rows and
the shards. Medians over turns with minimum and maximum; ratios are of one turn. CPU seconds tell how much work each is,
whoever else is on the machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from benchmarks.arguments import whole
from benchmarks.lake import machine
from benchmarks.processes import cpu_seconds
from datalake import Lake
from orchestration.corpus.add import add_corpus, stdlib_files
from orchestration.corpus.tokenizers import train_bpe

GROUP = 4 << 20
CHARACTERS = 4000
TRAINED_ON = 4 << 20


def documents(size: int) -> list[str]:
    """So many bytes of Python's library, each document its own: what repeats is numbered."""
    texts = [path.read_text(errors="replace") for path in stdlib_files()]
    whole = "\n".join(texts)
    found, held, turn = [], 0, 0
    while held < size:
        for start in range(0, len(whole) - CHARACTERS, CHARACTERS):
            text = f"# {turn} {start}\n{whole[start : start + CHARACTERS]}"
            found.append(text)
            held += len(text.encode())
            if held >= size:
                break
        turn += 1
    return found


def write(folder: Path, texts: list[str]) -> dict[str, Path]:
    """The corpus as one file of each kind."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    made = {"plain": lines, "gz": gzip.compress(lines, 6), "zst": _zstd(lines)}
    suffixes = {"plain": "", "gz": ".gz", "zst": ".zst"}
    paths = {kind: folder / f"corpus.jsonl{suffixes[kind]}" for kind in made}
    for kind, data in made.items():
        paths[kind].write_bytes(data)
    return paths


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def library(tokenizer: Tokenizer, texts: list[str]) -> None:
    """All that the library is asked for: the tokens of each text, in groups."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP:
            tokenizer.encode_batch_fast(group, add_special_tokens=False)
            group, size = [], 0
    tokenizer.encode_batch_fast(group, add_special_tokens=False)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, CPU seconds of this process and its children)."""
    before, began = cpu_seconds(), time.monotonic()
    work()
    return time.monotonic() - began, cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=whole(), default=64)
    parser.add_argument("--turns", type=whole(), default=3)
    parser.add_argument("--vocabulary", type=whole(), default=8000)
    parser.add_argument("--kinds", default="plain,gz,zst")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    texts = documents(arguments.megabytes * 1_000_000)
    size = sum(len(text.encode()) for text in texts)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ("library", *kinds)}
    with tempfile.TemporaryDirectory(prefix="morphogen-corpus-") as temporary:
        folder = Path(temporary)
        made = train_bpe((text.encode() for text in texts[: TRAINED_ON // CHARACTERS]), arguments.vocabulary)
        (folder / "tokenizer.json").write_bytes(made.json_bytes)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        paths = write(folder, texts)
        for turn in range(arguments.turns):
            found["library"].append(timed(partial(library, tokenizer, texts)))
            for kind in kinds:
                lake = Lake.open(str(folder / f"lake-{turn}-{kind}"))
                how = {"tokenizer": str(folder / "tokenizer.json"), "seq_len": 1024}
                found[kind].append(timed(partial(add_corpus, lake, "text", paths[kind], **how)))
    if arguments.json:
        print(json.dumps({"machine": machine(), "bytes": size, "seconds": found}))
        return
    print(f"{machine()}; {size:,} bytes of text, {len(texts):,} documents, {arguments.turns} turns")
    print("| what | MB/s | CPU s | of the library's rate | of its CPU |")
    print("| --- | --- | --- | --- | --- |")
    for kind, turns in found.items():
        rates = [size / 1e6 / seconds for seconds, _ in turns]
        shares = [alone[0] / each[0] for alone, each in zip(found["library"], turns, strict=True)]
        work = [each[1] / alone[1] for alone, each in zip(found["library"], turns, strict=True)]
        cpu = statistics.median(each for _, each in turns)
        print(f"| {kind} | {_spread(rates, '.2f')} | {cpu:.1f} | {_spread(shares, '.0%')} | {_spread(work, '.2f')} |")


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
