"""The `morphogen` command: puts the command groups together and turns named errors into one line and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from datalake.errors import DatalakeError
from generator.errors import GeneratorError
from orchestration.cluster.silence import prepare_silence
from orchestration.commands import (
    corpus,
    data,
    doctor,
    experiment,
    jobs,
    lake,
    lattice,
    look,
    models,
    params,
    pipeline,
    ray,
    runs,
    serve,
    tune,
)
from orchestration.console.foreign import prepare_streams
from orchestration.console.output import complain, end_output, say
from orchestration.errors import ClusterLostError, JobStopped, OrchestrationError, OutputClosedError
from orchestration.folders import prepare_folders

app = typer.Typer(
    name="morphogen",
    help="Synthetic data from neural cellular automata: parameters, sequences, lake, training, model repository.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(params.app, name="params", help="Parameter registry: versioned generation specs and their aliases.")
app.add_typer(data.app, name="data", help="Datasets in the lake: list, show, look at, verify, retire.")
app.add_typer(corpus.app, name="corpus", help="Text corpora: tokenise into the lake.")
app.add_typer(models.app, name="models", help="Model repository: versions and aliases.")
app.add_typer(lattice.app, name="lattice", help="3-D lattices of cells: train, evaluate, play.")
app.add_typer(runs.app, name="runs", help="Runs: list, show, follow, stop, resume, retire.")
app.add_typer(ray.app, name="ray", help="Keep a Ray of this machine between commands: start, stop, status.")
app.add_typer(serve.tokens_app, name="tokens", help="Access tokens of the HTTP API: create, list, revoke.")
COMMANDS: list[Callable[..., None]] = [
    *(look.preview, look.profile, jobs.generate, jobs.train, jobs.demo, pipeline.pipeline),
    *(lake.lineage, lake.probe, doctor.doctor, serve.serve, experiment.experiment, tune.tune),
]
for command in COMMANDS:
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            say(f"morphogen {version('morphogen')}")
        except PackageNotFoundError:
            say("morphogen (run from source, not installed)")
        raise typer.Exit


@app.callback()
def root(
    lake_uri: Annotated[
        str | None, typer.Option("--lake", metavar="URI", help="A folder or s3://bucket/prefix, for any command.")
    ] = None,
    _version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Options that come before the command."""
    if lake_uri is not None:
        # The commands' own --lake reads this variable, so both places mean the same.
        os.environ["MORPHOGEN_LAKE"] = lake_uri


@cache
def _command() -> Callable[..., Any]:
    """All commands and options, put together once a process: a tenth of a second that tests would pay per command."""
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a user's mistake ends as one line on standard error and exit code 2.

    A job that was told to stop ends with 3, 130 or 143 (``orchestration.runs.signals``), one whose cluster is gone
    with 4, a command whose output nobody reads any more with 141, as if SIGPIPE had ended it.
    """
    prepare_streams()
    prepare_folders()
    prepare_silence()
    warnings.showwarning = _show_warning
    try:
        code = _command()(arguments, standalone_mode=False)
        end_output()
    except typer.TyperException as error:
        sys.exit(_refuse_usage(error))
    except typer.Abort:
        complain("aborted")
        sys.exit(1)
    except JobStopped as stopped:
        complain(stopped)
        sys.exit(stopped.exit_code)
    except OutputClosedError as error:
        sys.exit(error.exit_code)
    except ClusterLostError as error:
        complain(f"error: {error}")
        os._exit(error.exit_code)  # Ray's own threads would wait for the cluster, and then abort the process
    except _named_errors() as error:
        complain(f"error: {error}")
        sys.exit(2)
    sys.exit(code or 0)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """In place of Python's own: where in the program a warning comes from says nothing to its user."""
    complain(f"warning: {message}")


def _refuse_usage(error: typer.TyperException) -> int:
    """Say what is wrong with the command line, in one place and way with every other mistake; the exit code."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if context is not None and message == context.get_help():  # no arguments at all: this is the help, and no mistake
        for line in message.split("\n"):
            complain(line)
    else:
        where = "" if context is None else f"; see `{context.command_path} --help`"
        complain(f"error: {message.removesuffix('.')}{where}")
    return 2


def _named_errors() -> tuple[type[Exception], ...]:
    """What a user can mend. The trainer's only once something has imported it, and with it PyTorch: seconds that a
    command which does not train should not cost."""
    trainer_errors = sys.modules.get("trainer.errors")
    trainers = () if trainer_errors is None else (trainer_errors.TrainerError,)
    return (GeneratorError, DatalakeError, OrchestrationError, *trainers)


if __name__ == "__main__":
    main()
