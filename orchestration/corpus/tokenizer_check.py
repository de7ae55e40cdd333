"""A tokenizer from elsewhere, tried on texts of every sort in a process of its own before it is trusted.

A pattern in it can take hours or a stack that is not there, and the library's answer to either ends the process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from orchestration.console.foreign import shown
from orchestration.errors import TokenizerError

CPU_SECONDS = 20
MEMORY = 8 << 30

# What any text may hold. Not here: composed and decomposed accents and the ▁ of SentencePiece, which published
# tokenizers change and few texts hold; every document is compared with its tokens where that may happen.
ORDINARY = (
    "Plain words, CAPITALS and numbers 1234567890, don't you think?",
    "  two  leading, and trailing   ",
    " x",
    "x",
    "\n\nfirst\r\n\tsecond\n \n",
    "größte Ñandú, ﬁ ﬀ ½ ① ™ Å",
    "日本語のテキスト。한국어, ไทย, العربية, עברית",
    "👩\u200d👩\u200d👧\u200d👦 🇩🇪 🏽 \U0001f98a",
    "\x00\x07\x1b[31m\x7f \u200b\u2028\u00a0 \ufffd \U0010ffff",
    "<|endoftext|> </s> [UNK] <unk> ##x \\u0041 {{x}}",
)
_RUN = 20_000
RUNS = ("a", "1", "!", " ", "\n", "é", "日", "aB", "a ", "'s", "\t\n")


def check_tokenizer(path: Path, json_bytes: bytes, end_of_text: int, *, lossy: bool) -> None:
    """Raises TokenizerError for a tokenizer that cannot be used, takes too long or, unless ``lossy``, loses text."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(end_of_text)],
        input=json_bytes,
        capture_output=True,
        env=environment,
        check=False,
    )
    answer = child.stdout.decode(errors="replace").strip()
    if child.returncode:
        raise TokenizerError(
            f"tokenizer: {shown(path)} cannot be used: a few lines of text took it more than {CPU_SECONDS} s or "
            f"{MEMORY >> 30} GiB, or ended the process (exit code {child.returncode}); use another tokenizer"
        )
    found = json.loads(answer)
    if "error" in found:
        raise TokenizerError(f"tokenizer: {shown(path)}: {shown(found['error'])}")
    if "text" in found and not lossy:
        raise TokenizerError(
            f"tokenizer: {shown(path)} does not keep text: {found['text']!r} becomes {found['becomes']!r}, so bits per "
            "byte would be of another text; use another tokenizer, or take it as lossy"
        )


def _try(json_bytes: bytes, end_of_text: int) -> dict[str, str]:
    from orchestration.corpus.tokenizers import BpeTokenizer

    try:
        tokenizer = BpeTokenizer(json_bytes, "file", end_of_text)
        for run in RUNS:
            tokenizer.encode([(run * _RUN)[:_RUN].encode()])
        for text in ORDINARY:
            spelled = tokenizer.spell(tokenizer.encode([text.encode()])[0])
            expected = b" " * tokenizer.prefix_bytes + text.encode()
            if spelled != expected:
                return {"text": expected.decode(), "becomes": spelled.decode(errors="backslashreplace")}
    except TokenizerError as error:
        return {"error": str(error).removeprefix("tokenizer: ")}
    except Exception as error:  # noqa: BLE001 - the library raises nothing more particular for JSON that is none of its
        return {"error": f"is no tokenizer of the `tokenizers` library ({error}); give its tokenizer.json"}
    return {}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    print(json.dumps(_try(sys.stdin.buffer.read(), int(sys.argv[1]))))
