"""An interruption ends a job in the same way wherever it strikes, inside compiled code, too."""

import signal

import pytest
import typer

from datalake import Lake
from generator import parse_spec
from orchestration.errors import JobStopped
from orchestration.jobs import job
from orchestration.runs.lease import acquire
from orchestration.runs.signals import GraceOver, Stop, unwrapping
from orchestration.tune.proxy import generate_for_proxy
from tests.ray_fixtures import TINY_SPEC


def as_compiled_code_does(interruption: type[BaseException]) -> None:
    """What CPython makes of an exception that a function in C leaves set beside its result."""
    raise SystemError("<cyfunction CoreWorker.wait> returned a result with an exception set") from interruption()


@pytest.mark.parametrize(("interruption", "code"), [(GraceOver, 128 + signal.SIGTERM), (KeyboardInterrupt, 130)])
def test_a_job_interrupted_in_compiled_code_ends_with_its_exit_code(interruption, code, capsys):
    def interrupted() -> None:
        with job() as stop:
            stop.ask("SIGTERM", 128 + signal.SIGTERM)
            as_compiled_code_does(interruption)

    with pytest.raises(typer.Exit) as ended:
        interrupted()
    assert ended.value.exit_code == code
    assert "the same command again to go on" in " ".join(capsys.readouterr().err.split())


def test_its_run_is_stopped_and_has_not_failed(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    with pytest.raises(GraceOver), acquire(lake, "long", "tune", {}, {}, stop=Stop()):
        as_compiled_code_does(GraceOver)
    assert lake.runs.get("long").status == "stopped"


def test_an_error_of_compiled_code_stays_one():
    with pytest.raises(SystemError, match="of its own"), unwrapping():
        raise SystemError("of its own")


def test_a_proxys_data_are_not_made_once_it_is_to_stop(tmp_path):
    lake, stop = Lake.open(str(tmp_path / "lake")), Stop()
    stop.ask("run tune, for which it worked, was stopped")
    with pytest.raises(JobStopped, match="for which it worked"):
        generate_for_proxy(lake, parse_spec(TINY_SPEC), 0, 4096, 1, stop)
    assert not lake.datasets.list()
