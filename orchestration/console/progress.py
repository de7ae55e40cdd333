"""Progress that suits where it is read: a live bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestration.console.foreign import shown, styled
from orchestration.console.output import console

LINE_INTERVAL_S = 5.0

Advance = Callable[[float, str], None]
"""``advance(completed, note)``: units done so far, and a short note such as the current loss."""


@contextmanager
def stage(title: str, total: float, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Show one stage of `total` units; yields ``advance(completed, note)``."""
    started = clock()
    if console.is_terminal:
        # These columns would read markup in a title or a note.
        title_column, note_column = (TextColumn(f"{{task.{f}}}", markup=False) for f in ("description", "fields[note]"))
        columns = (title_column, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, note_column, console=console) as bars:
            bar = bars.add_task(shown(title), total=total, note="")

            def update(completed: float, note: str = "") -> None:
                bars.update(bar, completed=completed, note=shown(note))

            yield update
    else:
        console.print(f"{title} …")
        last = started

        def line(completed: float, note: str = "") -> None:
            nonlocal last
            now = clock()
            if now - last >= LINE_INTERVAL_S:
                last = now
                share = 100 * completed / max(total, 1)
                console.print(f"  {title}: {completed:,.0f}/{total:,.0f} ({share:.0f} %) {now - started:.0f}s {note}")

        yield line
    console.print(styled(("✓", "green"), f" {title} ({clock() - started:.1f}s)"))


@contextmanager
def corpus_stages(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a corpus being added; yields ``progress(part, files done, files in all)``, one part after the other."""
    with stage(f"corpus {name}", 100) as advance:
        yield lambda part, done, total: advance(100 * done / max(total, 1), part)
