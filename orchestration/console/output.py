"""Where everything that is printed leaves the program: results on standard output, what a person watches on the other.

``say``, ``print_json``, ``print_table`` and ``print_fields`` write results, ``console`` is for progress. All of them
show text of others as ``foreign.shown`` makes it: nothing is taken for markup or for a terminal's control sequence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from orchestration.console.foreign import as_json, shown
from orchestration.errors import OutputClosedError, OutputError

PIPED_WIDTH = 160
LONGEST_LIST = 16  # values of a list that a row shows


class SafeConsole(Console):
    """A console of rich to which every piece of text is plain: no markup, no emoji codes, no control characters."""

    def render_str(
        self, text: str, *, style: Any = "", justify: Any = None, overflow: Any = None, **_ways_to_interpret: Any
    ) -> Text:
        """The text as it is, whichever renderable it belongs to."""
        return Text(shown(text), style=style, justify=justify, overflow=overflow)


class _ForShow:
    """Standard error for progress: whoever stops reading it, or a disk that fills up with it, does not end a job."""

    encoding = property(lambda _self: getattr(sys.stderr, "encoding", "utf-8"))

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except OSError:
            self._to_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except OSError:
            self._to_nowhere()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()  # closed, and this module loaded before it is opened

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def _to_nowhere(self) -> None:
        _silence(sys.stderr)


class _Unwritten:
    """Looks like standard output to what draws for it; what is drawn is captured, and written by ``_write`` alone."""

    encoding = property(lambda _self: getattr(sys.stdout, "encoding", "utf-8"))

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return sys.stdout.isatty()


# Standard output is for results (tables, JSON); everything a person watches goes to standard error.
console = SafeConsole(stderr=True, file=_ForShow(), highlight=False, soft_wrap=True)  # type: ignore[arg-type]


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line on standard output, or on standard error. Raises OutputError and OutputClosedError."""
    _write(f"{shown(line)}\n", err)


def complain(message: object) -> None:
    """Print a line on standard error, as the last thing before the end: nothing is left to do if that fails."""
    try:
        _write(f"{shown(message)}\n", err=True)
    except OutputError:
        _silence(sys.stderr)


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Print a document on standard output as ``foreign.as_json`` has it, whatever the width of the terminal."""
    _write(as_json(document, indent) + "\n", err=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print a table on standard output, its title on a line of its own; numbers are aligned to the right."""
    if title is not None:
        say(title)
    table = Table()
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(value_text(value) for value in row))
    print_renderable(table)


def print_fields(document: Mapping[str, Any], title: str | None = None) -> None:
    """Print what a JSON object holds as a table, a row a value; see ``flat_rows``."""
    print_table(["field", "value"], flat_rows(document), title=title)


def flat_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(dotted path, value as text) of every value in nested objects and lists of such, in order.

    What is empty (None, empty text, list or object) is left out; of a long list the first values are shown.
    """
    return list(_leaves("", document))


def _leaves(path: str, value: Any) -> Iterable[tuple[str, str]]:
    if value is None or value == "" or value == [] or value == {} or value == ():
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list | tuple) and all(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _leaves(f"{path}.{place}", inner)
    else:
        yield path, value_text(value)


def value_text(value: Any) -> str:
    """A value as a table shows it: thousands apart, true and false as JSON has them, a list with commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        words = [f"[{value_text(each)}]" if isinstance(each, list | tuple) else value_text(each) for each in value]
        rest = len(words) - LONGEST_LIST
        return ", ".join(words[:LONGEST_LIST]) + (f", and {rest:,} more" if rest > 0 else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{path} {text}" for path, text in flat_rows(value))
    return str(value)


def result_console(*, plain: bool = False) -> SafeConsole:
    """Standard output; in a file or a pipe nothing limits a line, and a digest cut in two cannot be searched for.

    With ``plain`` a terminal is treated as a pipe is.
    """
    found = SafeConsole(
        file=_Unwritten(),  # type: ignore[arg-type]
        highlight=False,
        force_terminal=False if plain else None,
    )
    if not found.is_terminal:
        found.width = PIPED_WIDTH
    return found


def print_line(line: Text | str, console: SafeConsole) -> None:
    """Print one line on standard output, with the colours that ``console`` has; it is not cut where it is too long."""
    with console.capture() as captured:
        console.print(line, soft_wrap=True)
    _write(captured.get(), err=False)


def print_renderable(renderable: RenderableType) -> None:
    """Print what rich draws on standard output."""
    drawn = result_console()
    with drawn.capture() as captured:
        drawn.print(renderable)
    _write(captured.get(), err=False)


def end_output() -> None:
    """Write out what is still buffered. Raises OutputError and OutputClosedError."""
    _write("", err=False)


def _write(text: str, err: bool) -> None:
    stream: TextIO = sys.stderr if err else sys.stdout
    name = "standard error" if err else "standard output"
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
        raise OutputClosedError(f"{name}: nobody reads it any more") from None
    except OSError as error:
        _silence(stream)
        raise OutputError(
            f"{name}: cannot be written ({error.strerror}); what was computed is kept in the lake: send the output "
            "elsewhere and run the same command again"
        ) from error


def _silence(stream: TextIO) -> None:
    """Send what is left in the stream's buffer nowhere: Python would try once more at its end, and complain."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except OSError:  # a stream without a file behind it
        return
