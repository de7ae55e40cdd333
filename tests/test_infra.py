"""infra/ agrees with the package, and holds no secret; tests/test_kubernetes.py is about the manifests."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from orchestration.cli import app, main
from orchestration.cluster import silence

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
FILES = sorted(path for path in INFRA.rglob("*") if path.is_file())
DOCKERFILE = (INFRA / "Dockerfile").read_text()
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = SETTINGS["project"], SETTINGS["tool"]["setuptools"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))

SECRET_LITERALS = (
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"(?i)(secret|password|passwd|token|access_key)\w*\s*[:=]\s*['\"]?[A-Za-z0-9/+]{16,}",
    r"://[^/\s:@]+:[^/\s@]+@",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_a_file_says_what_it_is_and_holds_no_secret(path):
    text = path.read_text()
    if path.suffix != ".json":
        assert text.startswith(("# ", "#!/bin/sh\n# "))
    for pattern in SECRET_LITERALS:
        assert not re.search(pattern, text), pattern


@pytest.mark.parametrize(
    "text",
    [
        "AWS_ACCESS_KEY_ID: AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "https://user:hunter2@s3.example.org",
    ],
)
def test_a_secret_would_be_found(text):
    assert any(re.search(pattern, text) for pattern in SECRET_LITERALS)


def test_the_image_installs_what_the_package_needs():
    python = re.search(r"^FROM python:(\d+\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert python is not None
    assert PROJECT["requires-python"] == f">={python.group(1)}"
    assert f"ARG TORCH=torch=={PINNED['torch']}\n" in DOCKERFILE
    copied = {word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]}
    sent = {line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]}
    installed = {"pyproject.toml", "constraints.txt", PROJECT["readme"], "LICENSE"}
    assert copied == sent == packages | installed | {"infra/install.sh"}
    assert all((ROOT / path).exists() for path in sent)


def test_the_nodes_of_the_image_ask_silent_peers_as_soon_as_drivers_do(monkeypatch):
    image = dict(
        word.split("=", 1) for line in re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()
    )
    assert silence.SETTINGS.items() <= image.items()
    first, *others = silence.SETTINGS
    monkeypatch.setenv(first, "1")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        main(["--version"])  # Ray is not imported before this: tests/orchestration/test_cli.py
    assert {name: os.environ[name] for name in silence.SETTINGS} == silence.SETTINGS | {first: "1"}


def test_the_image_and_the_installer_have_the_same_steps():
    called = re.findall(r"^RUN morphogen-install (\w+)$", DOCKERFILE, re.MULTILINE)
    script = (INFRA / "install.sh").read_text()
    assert called == re.findall(r"^(\w+)\)", script, re.MULTILINE)
    assert not re.search(r"^RUN (?!morphogen-install)", DOCKERFILE, re.MULTILINE), "a step that nothing else tries"
    assert f"TORCH=${{TORCH:-torch=={PINNED['torch']}}}" in script
    assert f"ARG TORCH_INDEX={re.search(r'TORCH_INDEX-(.*)}', script)[1]}\n" in DOCKERFILE
    wrong = subprocess.run(
        ["sh", INFRA / "install.sh"], env={"SOURCE": "/"}, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "a step is system" in wrong.stderr


def test_the_bucket_policy_grants_what_the_jobs_call_and_no_other_delete():
    policy = json.loads((INFRA / "s3" / "bucket-policy.json").read_text())
    allowed = [each for each in policy["Statement"] if each["Effect"] == "Allow"]
    actions = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}
    assert {each["Action"] for each in allowed} == actions
    deletable = [each["Resource"] for each in allowed if each["Action"] == "s3:DeleteObject"]
    may_go = ("checkpoints", "claims", "ended-sessions")
    assert deletable == [f"arn:aws:s3:::my-bucket/lake/{prefix}/*" for prefix in may_go]
    for each in allowed:
        assert each["Principal"] != "*"
        assert each["Resource"].endswith("/lake/*") or each["Action"] == "s3:ListBucket" or "/lake/" in each["Resource"]
    overwrites = [each["Resource"] for each in allowed if each["Action"] == "s3:PutObject" and "Condition" not in each]
    prefixes = ("data", "attempts", "pulses", "heads")
    assert overwrites == [f"arn:aws:s3:::my-bucket/lake/{prefix}/*" for prefix in prefixes]


def test_only_the_modules_that_the_bucket_policy_knows_replace_or_delete():
    """Shards are put back under data/, parts of an index under attempts/, heartbeats replaced under pulses/, hints of
    newest entries under heads/, the conformance record is probe/verdict.json; runs drop old checkpoints' files, commits
    their own claims, the server the marks of sessions long over; the probe removes its own objects and garbage
    collection is an administrator's."""
    calls = {
        (path.stem, node.func.attr)
        for path in (ROOT / "datalake").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("replace", "delete")
        and ast.unparse(node.func.value).endswith("store")
    }
    assert calls == {
        ("shards", "replace"),
        ("attempts", "replace"),
        ("heartbeat", "replace"),
        ("conformance", "replace"),
        ("run", "delete"),
        ("probe", "delete"),
        ("garbage", "delete"),
        ("version_log", "replace"),
        ("claims", "delete"),
        ("access", "delete"),
        # Exports go where their user says, which is a place beside the lake: its policy is no matter of theirs.
        ("export_targets", "replace"),
        ("export_targets", "delete"),
    }


def test_the_proxy_fits_the_server():
    from orchestration.serve.acceptance import CheckLimits
    from orchestration.serve.settings import ServeSettings

    proxy = (INFRA / "proxy" / "nginx.conf").read_text()
    passed_on = (INFRA / "proxy" / "morphogen-upstream.inc").read_text()
    assert int(re.search(r"proxy_read_timeout\s+(\d+)s", passed_on)[1]) > CheckLimits().wall_s
    assert int(re.search(r"client_max_body_size\s+(\d+)k", proxy)[1]) * 1024 == ServeSettings().max_body
    for header in ("Host", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Prefix"):
        assert re.search(rf"proxy_set_header {header}\s", passed_on), "one of a client's own would be believed"
    command = shlex.split(re.search(r"#\s+(morphogen serve .*)", proxy)[1])
    options = {name for option in typer.main.get_command(app).commands["serve"].params for name in option.opts}
    assert {word for word in command if word.startswith("--")} <= options


def test_the_recipes_for_clouds_name_what_is_there():
    text = (ROOT / "docs" / "guides" / "cloud.md").read_text()
    paths = re.findall(r"(?:-k |-f |file://|`)(infra/[\w./-]+)", text)
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path.rstrip(".,`")).exists(), path
    for line in re.findall(r"compose -f infra/compose\.yaml (?:run --rm|exec) \w+ (morphogen .*)", text):
        command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context("morphogen", words)


def test_the_compose_file_is_ours():
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    command, words = typer.main.get_command(app), shlex.split(services["server"]["command"])[1:]
    command.commands[words.pop(0)].make_context("serve", words)
    compile(services["bucket"]["command"][2], "bucket", "exec")
    trial = yaml.safe_load_all((INFRA / "k8s" / "overlays" / "trial" / "s3.yaml").read_text())
    image = next(trial)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert services["store"]["image"] == image
    assert services["server"]["read_only"]


def test_nothing_but_quarantine_expires():
    rules = json.loads((INFRA / "s3" / "lifecycle.json").read_text())["Rules"]
    assert [rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule] == ["lake/quarantine/"]
