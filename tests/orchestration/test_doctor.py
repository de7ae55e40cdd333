"""`morphogen doctor`: what is wrong is found, said with what to do, within the time, and without a secret."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from datalake import Lake, ProbeReport, record_conformance
from datalake.clock import System
from orchestration.cli import main
from orchestration.doctor import machine
from orchestration.doctor.findings import Check, Finding, examine, without_secrets
from orchestration.runs.owner import this_process
from tests.fake_s3 import answers, clock_is_off, fake_s3, no_conditional_writes
from tests.ray_fixtures import ROOT


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Run it; returns (exit code, findings by what, all that was printed)."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(lake: str | Path, *options: str) -> tuple[int, dict[str, list[dict]], str]:
        with pytest.raises(SystemExit) as exit_:
            main(["doctor", "--lake", str(lake), "--json", *options])
        printed = capsys.readouterr()
        document = json.loads(printed.out)
        assert printed.err == ""
        code = exit_.value.code or 0
        assert code == (0 if document["ok"] else 2)
        found: dict[str, list[dict]] = {}
        for finding in document["findings"]:
            assert finding["status"] == "ok" or finding["advice"], finding
            found.setdefault(finding["what"], []).append(finding)
        return code, found, printed.out + printed.err

    return run


def failed(found: dict[str, list[dict]]) -> set[str]:
    return {what for what, findings in found.items() if any(each["status"] == "failed" for each in findings)}


def test_a_machine_and_a_lake_that_are_well(doctor, lake_uri):
    lake = Lake.open(lake_uri)
    lake.params.put("code", {"family": "iid"})
    before = sorted(lake.store.list())
    code, found, _ = doctor(lake_uri)
    assert code == 0, found
    expected = {"versions", "processor", "zlib", "memory", "disk", "gpu", "ray", "store", "conditional writes", "clock"}
    assert expected | {"leases"} <= found.keys()
    assert found["conditional writes"][0]["status"] == "ok"
    assert found["clock"][0]["facts"] == {"seconds": 0.0}
    assert sorted(lake.store.list()) == before


def test_a_lake_that_is_not_there_is_not_made(doctor, tmp_path):
    code, found, _ = doctor(tmp_path / "none")
    assert code == 0
    assert "first write" in found["conditional writes"][0]["found"]
    assert not (tmp_path / "none").exists()


def test_it_is_said_for_people_too(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", "--lake", str(tmp_path)])
    assert exit_.value.code == 2
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("FAILED  ray: RAY_ADDRESS"))
    assert "->" in lines[at + 1]
    assert lines[-1].startswith("1 failed, ")


def test_leases_and_those_whose_owner_is_gone(doctor, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    code = "import json; from orchestration.runs.owner import this_process as t; print(json.dumps(t()))"
    gone = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    lake.runs.start("dead", "train", {}, {}, over="", about={"holder": json.loads(gone)})
    lake.runs.start("alive", "train", {}, {}, over="", about={"holder": this_process()})
    lake.store.put_if_absent(
        "claims/0123.json", b'{"author":"me","groups":["data/x"],"time":"2026-01-01T00:00:00.000Z","what":"w"}'
    )
    code, found, _ = doctor(tmp_path / "lake")
    assert code == 0
    held, lost = found["leases"]
    assert list(held["facts"]["held"]) == ["alive"]
    assert (lost["status"], list(lost["facts"]["lost"])) == ("warning", ["dead"])
    assert "morphogen runs resume dead" in lost["advice"]
    assert "--forget claims/0123.json" in found["notes"][0]["advice"]


def test_a_store_that_is_known_to_fail_the_probe(doctor, tmp_path):
    lake = Lake.open(str(tmp_path / "lake"))
    record_conformance(lake.store, ProbeReport(lake.uri, 2, 1, ("two won",), 0.1), System())
    code, found, _ = doctor(tmp_path / "lake")
    assert code == 2
    assert failed(found) == {"lake"}
    assert "two won" in found["lake"][0]["found"] + found["lake"][0]["advice"]


@pytest.mark.parametrize(
    ("behaviour", "ignores", "what", "says"),
    [
        (None, True, "conditional writes", "created again"),
        (no_conditional_writes, False, "lake", "condition"),
        (clock_is_off(30), False, "lake", "clock"),
        (answers(403, "AccessDenied"), False, "lake", "AccessDenied"),
        (answers(403, "InvalidAccessKeyId"), False, "lake", "credential"),
        (answers(404, "NoSuchBucket"), False, "lake", "bucket"),
        (answers(200, body=b"<html>welcome</html>"), False, "lake", ""),
    ],
)
def test_a_store_that_is_broken(doctor, monkeypatch, behaviour, ignores, what, says):
    with fake_s3(monkeypatch, behaviour, ignores_conditions=ignores) as server:
        code, found, printed = doctor("s3://bucket/lake")
        assert not [key for _, key in server.objects if "doctor" in key]
    assert code == 2
    assert failed(found) == {what}
    assert says.lower() in json.dumps(found[what]).lower()
    assert "only-a-test" not in printed


def test_credentials_that_may_only_read(doctor, monkeypatch):
    with fake_s3(monkeypatch, answers(403, "AccessDenied", to="PUT")):
        code, found, _ = doctor("s3://bucket/lake")
    assert code == 0
    assert found["conditional writes"][0]["status"] == "warning"
    assert "only read" in found["conditional writes"][0]["found"]


@pytest.fixture
def silent_port():
    """A port that takes connections and never answers."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
    for connection in taken:
        connection.close()


def test_nothing_that_is_silent_is_waited_for(doctor, monkeypatch, silent_port):
    with fake_s3(monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent_port}")
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent_port}")
        code, found, _ = doctor("s3://bucket/lake", "--timeout", "5")
    assert code == 2
    assert failed(found) == {"lake", "ray"}
    assert "not known within 5 s" in found["lake"][0]["found"]


def test_a_lake_s_address_that_is_none(doctor):
    code, found, printed = doctor("s3:/bucket:s3cr3t-word")
    assert code == 2
    assert failed(found) == {"lake"}
    assert "s3cr3t-word" not in printed


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 570.86.10, 81559, 12'", None, "NVIDIA H100 80GB HBM3, driver 570.86.10"),
        (
            "echo 'NVIDIA-SMI could not communicate with the driver'; exit 9",
            "failed",
            "communicate",
        ),
        ("exit 0", "failed", "said nothing"),
        ("sleep 60", "failed", "no answer"),
    ],
)
def test_what_nvidia_smi_says(monkeypatch, tmp_path, script, status, says):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nexec 2>&1\n{script.replace('sleep', 'exec sleep')}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "SMI_TIMEOUT_S", 1.0)
    found: list[Finding] = []
    machine.check_gpu(found.append)
    assert says in found[0].found
    assert status is None or found[0].status == status


def test_a_full_disk_and_a_fork_of_zlib(monkeypatch, tmp_path):
    found: list[Finding] = []
    monkeypatch.setattr(machine, "LEAST_DISK", 1 << 60)
    monkeypatch.setattr(machine, "zlib_defines_scores", lambda: False)
    machine.check_disk(found.append, tmp_path)
    machine.check_zlib(found.append)
    assert [each.status for each in found][-2:] == ["failed", "ok"]
    assert "make room" in found[0].advice
    assert "fork" in found[-1].found


def test_a_check_that_breaks_or_hangs_costs_no_other():
    release = threading.Event()

    def breaks(_add):
        raise RuntimeError("a bug")

    def hangs(add):
        add(Finding("slow", "ok", "the first part"))
        release.wait()

    def works(add):
        add(Finding("c", "ok", ""))

    checks = [Check("a", breaks, ""), Check("b", hangs, "do this"), Check("c", works, "")]
    found = examine(checks, 0.5)
    release.set()
    said = [(each.what, each.status) for each in found]
    assert said == [("a", "failed"), ("slow", "ok"), ("b", "failed"), ("c", "ok")]
    assert "RuntimeError: a bug" in found[0].found
    assert found[2].advice == "do this"


def test_secrets_are_taken_out(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdef/secret+x")
    monkeypatch.setenv("HF_TOKEN", "hf_1234567")
    text = without_secrets("https://me:pw@host/x failed with abcdef/secret+x and hf_1234567")
    assert text == "https://***@host/x failed with *** and ***"


def test_neither_torch_nor_ray_is_imported(tmp_path):
    code = (
        "import sys; from orchestration.cli import main\n"
        "try: main(['doctor', '--json'])\n"
        "except SystemExit: print([n for n in ('torch', 'ray') if n in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MORPHOGEN_LAKE": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert ended.stderr.strip() == "[]"


def test_a_cluster_that_is_there(doctor, monkeypatch, tmp_path, ray_cluster):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    _, found, _ = doctor(tmp_path, "--timeout", "120")
    (ray,) = found["ray"]
    assert ray["status"] == "ok", ray
    assert ray["facts"]["nodes"] == 1
    assert ray["facts"]["resources"]["CPU"] > 0
