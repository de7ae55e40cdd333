"""Pages that the code writes: the command line, the configuration fields, the index of decisions.

A hook of mkdocs: the pages exist only while the site is built, so they cannot be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

DECISIONS = Path(__file__).resolve().parents[1] / "decisions"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for path, text in (
        ("reference/cli.md", command_line()),
        ("reference/configuration.md", configuration()),
        ("decisions/index.md", decisions()),
    ):
        files.append(File.generated(config, path, content=text))
    return files


def command_line() -> str:
    """Every command with its arguments, options and defaults, from the command line itself."""
    from orchestration.cli import app

    lines = ["# Command line", "", "Every command takes `--help`. Exit codes are in [Runs](../guides/runs.md)."]
    for path, command in walk(typer.main.get_command(app), ["morphogen"]):
        lines += ["", f"## `{' '.join(path)}`", "", cell(command.help or ""), ""]
        rows = [parameter_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["| argument or option | default | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """The commands below a group, in the order of `--help`."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from walk(each, [*path, name])


def parameter_row(parameter: Any) -> str:
    """One row of a command's table."""
    if parameter.param_type_name == "option":
        kind = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        shown = ", ".join([*parameter.opts, *parameter.secondary_opts]) + kind
    else:
        shown = parameter.metavar or parameter.name.upper()
    plain = isinstance(parameter.default, str | int | float) and parameter.default is not False
    return f"| `{escape(shown)}` | {f'`{parameter.default}`' if plain else ''} | {cell(parameter.help or '')} |"


def configuration() -> str:
    """Every field of every TOML file, from the pydantic models."""
    from generator.registry import GenerationSpec
    from orchestration.experiment.config.file import ExperimentFile
    from orchestration.live.config import LiveRequest
    from orchestration.pipeline.config import PipelineConfig
    from trainer.config import TrainConfig

    specs = get_args(get_args(GenerationSpec)[0])
    chapters: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
        ("Specs", "What `morphogen params put NAME FILE` takes: a data distribution.", specs),
        ("Training", "What `morphogen train FILE` takes.", (TrainConfig,)),
        ("Live training", "The table `[live]` of a training file.", (LiveRequest,)),
        ("Pipelines", "What `morphogen pipeline FILE` takes.", (PipelineConfig,)),
        ("Experiments", "What `morphogen experiment FILE` takes.", (ExperimentFile,)),
    )
    lines = ["# Configuration", "", "Files are TOML. Unknown fields are refused by name."]
    shown: set[type] = set()
    for title, about, models in chapters:
        lines += ["", f"## {title}", "", about]
        for model in models:
            lines += model_section(model, shown)
    return "\n".join(lines) + "\n"


def model_section(model: type[BaseModel], shown: set[type]) -> list[str]:
    """A table of a model's fields, then the models that they hold."""
    if model in shown:
        return []
    shown.add(model)
    lines = ["", f"### {model.__name__}", "", cell(model.__doc__ or ""), ""]
    lines += ["| field | type | default |", "| --- | --- | --- |"]
    below: list[type[BaseModel]] = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        needed = field.default is PydanticUndefined and field.default_factory is None
        default = "needed" if needed else f"`{escape(str(field.get_default(call_default_factory=True)))}`"
        lines.append(f"| `{field.alias or name}` | `{escape(type_name(field.annotation))}` | {default} |")
        below += models_in(field.annotation)
    for inner in below:
        lines += model_section(inner, shown)
    return lines


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def type_name(annotation: Any) -> str:
    """A type as a person reads it."""
    name = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return re.sub(r"(?:[a-z_]+\.)+", "", name).replace("NoneType", "None")


def decisions() -> str:
    """The index of the decision pages."""
    lines = ["# Decisions", "", "One short page each: what was chosen, what was rejected, and why.", ""]
    for page in sorted(DECISIONS.glob("[0-9]*.md")):
        title = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
        lines.append(f"- [{title[2:].strip()}]({page.name})")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text for one cell of a table: one line; reStructuredText's double back ticks become Markdown's."""
    return escape(" ".join(text.split()).replace("``", "`"))


def escape(text: str) -> str:
    """A table's separator is not part of a cell."""
    return text.replace("|", "\\|")
