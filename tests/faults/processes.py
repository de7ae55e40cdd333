"""Other processes as /proc shows them: who descends from whom, what they call themselves, and how they are ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Every live process below `pid`, with its title (Ray's workers write theirs, such as ``ray::ShardWorker``)."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it ended while we looked
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
                titles[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found |= {child: titles[child] for child in below}
        waiting += below
    return found


def titled(pid: int, *words: str) -> list[int]:
    """The processes below `pid` whose title has one of `words`, by id."""
    return sorted(child for child, title in descendants(pid).items() if any(word in title for word in words))


def end(pid: int, how: signal.Signals = signal.SIGKILL) -> bool:
    """Send the signal; False if the process was gone."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True


def kill_tree(pid: int, within: float = 20.0) -> None:
    """SIGKILL `pid` and all below it, and wait until none of them is left but perhaps `pid` as its parent's zombie."""
    end(pid, signal.SIGSTOP)  # or it starts another child meanwhile, or ends by itself when its children do
    family = [pid, *descendants(pid)]
    for member in family:
        end(member)
    deadline = time.monotonic() + within
    while any(_alive(member) for member in family):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes below {pid} outlived SIGKILL by {within} s")
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
