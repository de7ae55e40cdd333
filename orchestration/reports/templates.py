"""Templates: every page that is written or served is made by jinja2, escaped, from a file in a folder ``templates``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestration.console.foreign import in_html_lines, shown


def environment(folder: Path) -> Environment:
    """Templates of ``folder``, in which text of others is shown fit for a page; ``|lines`` keeps its lines."""
    found = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.finalize = lambda value: shown(value) if type(value) is str else value  # not what is markup already
    found.filters["lines"] = lambda text: Markup(in_html_lines(text))
    found.filters["number"] = lambda value: f"{value:,}"
    found.filters["signed"] = signed
    return found


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign, a minus as long as a plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


@cache
def _reports() -> Environment:
    return environment(Path(__file__).parent / "templates")


def report(template: str, **values: Any) -> str:
    """A self-contained page from ``templates/<template>``: inline style and figures, no script, no link out."""
    return _reports().get_template(template).render(**values)
