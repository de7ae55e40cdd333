"""The field's words and no others: what `docs/glossary.md` names once has no second, private name anywhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("generator", "datalake", "trainer", "orchestration", "morphogen", "benchmarks", "tests")
TEXT = ("docs", "infra", "experiments", "README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", *CODE)
KINDS = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".jinja", ".json", ".sh", ""}
NOT_OURS = {"docs/results", "docs/log.md", "tests/golden", "tests/test_words.py"}  # the past, and this list

# Old word: what it is called now. Nowhere, in no case: these words have no everyday sense that we need.
NOWHERE = {
    r"teller": "EventSender",
    r"event_?board": "EventQueue",
    r"telling_steps": "with_step_metrics",
    r"caretaker": "DamagePolicy, Repairer",
    r"patient_?store": "RetryingStore",
    r"patience": "RetryDeadline, a timeout",
    r"outlast": "retry_until",
    r"pulse(?!s[/\"])": "heartbeat",
    r"stillborn": "failed_starts",
    r"purse": "token bucket",
    r"_(welcome|bury)\b": "_on_started, _on_actor_death",
    r"settle[ds]?\b": "wait_for_commit, commit_facts",
}
# Old names of identifiers; as everyday words they stay (a promise of SECURITY.md, a clock that is held).
IN_CODE = {
    r"\bAmbient\b|\bambient\b": "System, system",
    r"\bFrozen\b": "ConfigModel",
    r"\b_?Held\b(?![- ]out)|\bRunHold\b|\bheld: (Any|Run)|\bheld\.(stop|run|check|lease)\b": "RunLease",
    r"\bhold\(|\bholder\b(?![\"'])|another_hold|`hold`": "acquire, owner",
    r"(?i)\bpromised?_\w+|_promise[ds]?\b|\bPromise[ds]?\b(?!,)": "PlannedDataset, planned",
    r"\b_?tell_\w+\(|\bdef _?told\b": "log_event",
    r"\bdef _?look\(self|\.look\(": "poll",
    r"\bmend(ed|s|ing)? ?[=(]|\b_?mend_\w+|\bdef \w*_?mend\b": "repair",
    r"\bcare ?[=(:]|\bdef care\b|\bcare\.": "damage",
    r"\bstretch(es)?_of\b|\b_?step_stretch": "step_range",
    r"\b(event_)?board\b": "queue of events",
    r"verdict(_not_kept|Report|Record)|\bread_verdict|\bwrite_verdict|VERDICT_KEY": "conformance",
    r"\.shown\(\)": "swapped_in()",
}


def texts(homes, suffixes):
    """(relative path, text) of the files below ``homes``."""
    for home in homes:
        below = [ROOT / home] if (ROOT / home).is_file() else sorted((ROOT / home).rglob("*"))
        for path in below:
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and path.suffix in suffixes and not any(name.startswith(other) for other in NOT_OURS):
                yield name, path.read_text(encoding="utf-8")


def found(words, homes, suffixes, flags=0):
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r} is called {now}"
        for name, text in texts(homes, suffixes)
        for old, now in words.items()
        for match in [*re.finditer(old, name, flags), *re.finditer(old, text, flags)]
    ]


def test_no_old_word_is_left_anywhere():
    assert found(NOWHERE, TEXT, KINDS, re.IGNORECASE) == []


def test_no_old_name_is_left_in_code():
    assert found(IN_CODE, CODE, {".py"}) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (NOWHERE, "A Caretaker mends it"),
        (NOWHERE, "Pulse(1)"),
        (IN_CODE, "with hold(lake, run):"),
        (IN_CODE, "def promised_rows():"),
        (IN_CODE, "class _Held:"),
        (IN_CODE, "def look(self):"),
        (IN_CODE, "average.shown()"),
        (IN_CODE, "self.board.push()"),
        (IN_CODE, "reader(mend=None)"),
    ],
)
def test_an_old_word_would_be_found(words, line):
    assert any(re.search(old, line, re.IGNORECASE if words is NOWHERE else 0) for old in words)
