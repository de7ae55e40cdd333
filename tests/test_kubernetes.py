"""infra/k8s as kubectl builds it: schemas, agreement with the package, rights. It is applied to no cluster here."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import promql_parser
import pytest
import typer
import yaml
from ray._private import ray_constants

from orchestration.cli import app
from orchestration.cluster.drain import MARGIN_S
from orchestration.experiment.config.load import load_experiment
from orchestration.pipeline.config import parse_pipeline
from orchestration.runs.signals import GRACE_S
from orchestration.telemetry import METRICS
from trainer.config import parse_config

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "infra" / "k8s"
KUBERNETES = "1.33"
OVERLAYS = ("cpu", "gpu", "spot", "trial")
JOBS = ("generate", "train", "pipeline", "experiment")
BUILDS = (*(f"overlays/{name}" for name in OVERLAYS), *(f"jobs/{name}" for name in JOBS))
FIELDS = json.loads((ROOT / "tests" / "golden" / "kuberay_fields.json").read_text())
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))

Document = dict[str, Any]


@cache
def built(folder: str) -> tuple[Document, ...]:
    """What `kubectl apply -k` would send."""
    kubectl = Path(sys.executable).with_name("kubectl")
    made = subprocess.run([kubectl, "kustomize", K8S / folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, "a deprecated field"
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(documents: tuple[Document, ...], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def ray_spec(document: Document) -> Document:
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def pod_templates(document: Document) -> Iterator[Document]:
    if document["kind"] in ("RayJob", "RayCluster"):
        spec = ray_spec(document)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            yield group["template"]
    elif document["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield document["spec"]["template"]


def pods(folder: str) -> Iterator[Document]:
    return (template["spec"] for document in built(folder) for template in pod_templates(document))


def containers(folder: str) -> Iterator[Document]:
    return (container for pod in pods(folder) for container in pod["containers"])


def ours(container: Document) -> bool:
    return container["image"].startswith("registry.example.org/morphogen:")


def problems(value: Any, fields: Any, path: str) -> Iterator[str]:
    """Where ``value`` is not what the list of a custom resource's fields says."""
    if isinstance(fields, str) and fields in FIELDS:
        fields = FIELDS[fields]
    if isinstance(fields, dict):
        if not isinstance(value, dict):
            yield f"{path}: not a table"
            return
        for key, item in value.items():
            if key in fields:
                yield from problems(item, fields[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: no such field"
    elif isinstance(fields, list):
        if not isinstance(value, list):
            yield f"{path}: not a list"
            return
        for number, item in enumerate(value):
            yield from problems(item, fields[0], f"{path}[{number}]")
    elif fields == "map":
        if not (isinstance(value, dict) and all(isinstance(item, str) for item in value.values())):
            yield f"{path}: not a table of strings"
    elif fields not in ("kubernetes", "PodTemplateSpec", "int-or-string"):
        types = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}
        if fields in types:
            fits = isinstance(value, types[fields]) and (fields == "boolean") == isinstance(value, bool)
        else:
            fits = value in fields.split("|")
        if not fits:
            yield f"{path}: {value!r} is no {fields}"


def parsed(command: list[str]) -> tuple[str, dict[str, Any]]:
    """The command of ours and its parameters, as the real command line parses them."""
    words = command[1:] if command[0] == "morphogen" else command[3:]
    assert command[0] == "morphogen" or command[:3] == ["python", "-m", "orchestration"]
    root = typer.main.get_command(app)
    return words[0], root.commands[words[0]].make_context(words[0], words[1:]).params


@pytest.mark.parametrize("folder", BUILDS)
def test_kubernetes_knows_every_field(folder):
    for document in built(folder):
        if document["apiVersion"].startswith("ray.io/"):
            assert document["apiVersion"] == "ray.io/v1"
            assert not [*problems(document["spec"], document["kind"], document["kind"])]
            for template in pod_templates(document):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": template["spec"]}
                kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_field_that_is_none_would_be_found():
    cluster = json.loads(json.dumps(of_kind(built("overlays/cpu"), "RayCluster")))
    cluster["spec"]["workerGroupSpecs"][0]["replica"] = 2
    cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] = "2"
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    cluster["spec"]["enableInTreeAutoscaling"] = 1
    assert len([*problems(cluster["spec"], "RayCluster", "")]) == 4
    server = json.loads(json.dumps(of_kind(built("overlays/cpu"), "Deployment")))
    server["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(server, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["generate", "train"])
def test_the_single_files_are_what_kustomize_makes(name):
    documents = tuple(yaml.safe_load_all((ROOT / "infra" / "ray" / f"rayjob-{name}.yaml").read_text()))
    assert documents == built(f"jobs/{name}"), f"kubectl kustomize infra/k8s/jobs/{name} makes it anew"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_a_command_that_we_understand(name):
    job = of_kind(built(f"jobs/{name}"), "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    command, parameters = parsed(words)
    assert (job["metadata"]["name"], command) == (f"morphogen-{name}", name)
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    (group,) = ray_spec(job)["workerGroupSpecs"]
    if "--workers" in words:
        assert int(parameters["workers"]) == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
        assert parameters["gpu"] is True
    head = ray_spec(job)["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    maps = {volume["name"]: volume["configMap"]["name"] for volume in head["volumes"] if "configMap" in volume}
    given = {document["metadata"]["name"]: document["data"] for document in built(f"jobs/{name}") if "data" in document}
    for word in words:
        if word.endswith(".toml"):
            assert Path(word).name in given[maps[mounts[str(Path(word).parent)]]]
    assert bool(maps) == bool(given)


def test_the_files_that_jobs_bring_are_configurations_of_ours():
    assert parse_config(tomllib.loads((K8S / "jobs/train/train.toml").read_text())).batch_sequences % 2 == 0
    assert parse_pipeline(tomllib.loads((K8S / "jobs/pipeline/pipeline.toml").read_text()), "pipeline.toml").baseline
    smoke = load_experiment(ROOT / "experiments" / "smoke.toml")
    assert load_experiment(K8S / "jobs/experiment/experiment.toml").file_digest == smoke.file_digest


@pytest.mark.parametrize("folder", BUILDS)
def test_no_pod_has_more_rights_than_it_needs(folder):
    for pod in pods(folder):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in DOCKERFILE
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][side])
    for document in built(folder):
        assert document["kind"] not in ("Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        is_cluster = document["kind"] == "RayCluster"
        for number, template in enumerate(pod_templates(document)):
            autoscales = is_cluster and number == 0  # Ray's autoscaler asks Kubernetes for pods
            assert autoscales or template["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("folder", BUILDS)
def test_a_pod_of_ours_knows_its_lake_and_finds_what_it_names(folder):
    documents = built(folder)
    accounts = {
        document["metadata"]["name"] for document in built("overlays/cpu") if document["kind"] == "ServiceAccount"
    }
    for pod in pods(folder):
        assert pod.get("serviceAccountName", "morphogen-jobs") in accounts
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            named = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert named <= volumes | {"data"}
            if ours(container):
                tag = container["image"].partition(":")[2]
                assert tag.removesuffix("-gpu") == VERSION
                assert {"configMapRef": {"name": "morphogen-lake"}} in container["envFrom"]
                assert {"secretRef": {"name": "morphogen-s3"}} in container["envFrom"]
    for document in documents:
        if document["kind"] in ("RayJob", "RayCluster"):
            assert ray_spec(document)["rayVersion"] == PINNED["ray"]


def test_every_variable_is_read_by_somebody():
    texts = [
        path.read_text() for name in ("orchestration", "datalake", "trainer") for path in (ROOT / name).rglob("*.py")
    ]
    read = {node.value for text in texts for node in ast.walk(ast.parse(text)) if is_variable(node)}
    for folder in BUILDS:
        given = {item["name"] for container in containers(folder) for item in container.get("env", ())}
        for document in built(folder):
            if document["metadata"]["name"] == "morphogen-lake":
                given |= set(document["data"])
        assert {name for name in given if not name.startswith("AWS_")} <= read
    assert {name for name in given if name.startswith("AWS_")} <= {"AWS_ENDPOINT_URL_S3", "AWS_REGION"}


def is_variable(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("MORPHOGEN_")


@pytest.mark.parametrize("folder", [name for name in BUILDS if name != "overlays/cpu"])
def test_a_ray_pod_has_time_to_end_its_job_memory_for_objects_and_a_place_for_files(folder):
    for document in built(folder):
        if document["kind"] not in ("RayJob", "RayCluster"):
            continue
        spec = ray_spec(document)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] >= GRACE_S + MARGIN_S + 20
            (container,) = pod["containers"]
            python, dash_m, module = container["lifecycle"]["preStop"]["exec"]["command"]
            assert (python, dash_m) == ("python", "-m")
            assert find_spec(module) is not None
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            shared = volumes[mounts["/dev/shm"]]["emptyDir"]
            assert shared["medium"] == "Memory"
            assert (
                int(group["rayStartParams"]["object-store-memory"])
                < int(shared["sizeLimit"].removesuffix("Gi")) * 2**30
            )
            assert "/tmp" in mounts, "Ray's session needs a place that can be written"
            assert "metrics" in {port["name"] for port in container["ports"]}


def test_components_change_what_they_say(tmp_path):
    def workers(folder: str) -> Document:
        (document,) = [each for each in built(folder) if each["kind"] in ("RayJob", "RayCluster")]
        return ray_spec(document)["workerGroupSpecs"][0]

    def gpus(folder: str) -> str | None:
        return workers(folder)["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")

    assert [gpus(f"overlays/{name}") for name in OVERLAYS] == [None, "1", None, None]
    assert [gpus(f"jobs/{name}") for name in JOBS] == [None, "1", "1", "1"]
    assert workers("overlays/spot")["template"]["spec"]["tolerations"]
    group = workers("overlays/cpu")
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["maxReplicas"] > 1
    # Outside the repository a component is named by its path, as a person's own overlay would.
    own = tmp_path / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        f"resources: [{Path('../' * len(own.parts)) / str(K8S)[1:]}/jobs/train]\n"
        f"components: [{Path('../' * len(own.parts)) / str(K8S)[1:]}/components/kueue]\n"
    )
    job = of_kind(built(str(own)), "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "morphogen"
    assert job["spec"]["suspend"] is True


def test_the_server_is_reached_where_it_listens():
    documents = built("overlays/cpu")
    server, service = of_kind(documents, "Deployment"), of_kind(documents, "Service")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    command, parameters = parsed(container["args"])
    assert (command, parameters["port"]) == ("serve", container["ports"][0]["containerPort"])
    from orchestration.serve.api import service as routes

    paths = {f"/api/v1{route.path}" for route in routes.router.routes}
    probes = {container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"/api/v1/health", "/api/v1/ready"} <= paths
    labels = server["spec"]["template"]["metadata"]["labels"]
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    (policy,) = [each for each in policies if each["metadata"]["name"] == "morphogen-server"]
    selectors = [
        service["spec"]["selector"],
        of_kind(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        server["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    scaler = of_kind(documents, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == server["metadata"]["name"]
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in server["spec"], "applying it again would undo the autoscaler"


def listening(template: Document) -> dict[str, int]:
    """A pod's ports by name."""
    ports = [port for container in template["spec"]["containers"] for port in container.get("ports", ())]
    return {port["name"]: port["containerPort"] for port in ports}


def test_every_port_is_one_that_somebody_listens_on():
    ray_s = {"gcs": ray_constants.DEFAULT_PORT, "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT, "metrics": 8080}
    templates = [template for folder in BUILDS for each in built(folder) for template in pod_templates(each)]
    ray_nodes = [listening(each) for each in templates if each["spec"]["containers"][0]["name"].startswith("ray-")]
    assert ray_nodes
    for ports in ray_nodes:  # 8080 is where KubeRay lets every node export its metrics
        assert ports.items() <= ray_s.items()
    (monitor,) = [each for each in built("monitoring") if each["kind"] == "PodMonitor"]
    assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ray_s.keys()

    documents = built("overlays/trial")
    labelled = [
        (template.get("metadata", {}).get("labels", {}), listening(template))
        for each in documents
        for template in pod_templates(each)
    ]

    def of_pods(selector: Document) -> dict[str, int]:
        if "ray.io/is-ray-node" in selector:
            return ray_s
        (ports,) = [ports for labels, ports in labelled if selector.items() <= labels.items()]
        return ports

    services = {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "Service"}
    for service in services.values():
        assert {port["targetPort"] for port in service["ports"]} <= of_pods(service["selector"]).keys()
    for policy in (each["spec"] for each in documents if each["kind"] == "NetworkPolicy"):
        there = of_pods(policy["podSelector"]["matchLabels"])
        asked = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", ())}
        assert asked <= {*there, *there.values()}
    (rule,) = of_kind(documents, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    behind = path["backend"]["service"]
    assert behind["port"]["name"] in {port["name"] for port in services[behind["name"]]["ports"]}
    store = urlsplit(of_kind(documents, "ConfigMap")["data"]["AWS_ENDPOINT_URL_S3"])
    assert store.port in {port["port"] for port in services[store.hostname]["ports"]}
    (server,) = of_kind(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert f"-s3.port={store.port}" in server["args"]


def queries() -> Iterator[str]:
    for group in yaml.safe_load((K8S / "monitoring" / "rules.yaml").read_text())["spec"]["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((K8S / "monitoring" / "dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def exported() -> set[str]:
    """The names under which Ray's exporter shows our metrics; tests/orchestration/test_telemetry.py scrapes them."""
    endings = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
    return {f"ray_{name}{end}" for name, (kind, *_) in METRICS.items() for end in endings[kind]}


@pytest.mark.parametrize("query", [*queries()])
def test_a_query_parses_and_asks_for_what_a_run_exports(query):
    names = set(re.findall(r"ray_\w+", promql_parser.parse(query).prettify()))
    assert names
    assert names <= exported()


def test_monitoring_builds_and_every_alert_says_what_to_do():
    documents = built("monitoring")
    assert {document["kind"] for document in documents} == {"ConfigMap", "PodMonitor", "PrometheusRule"}
    (group,) = of_kind(documents, "PrometheusRule")["spec"]["groups"]
    alerts = [rule for rule in group["rules"] if "alert" in rule]
    assert len(alerts) >= 5
    for alert in alerts:
        assert {"summary", "description"} == set(alert["annotations"])
        assert alert["labels"]["severity"] in ("warning", "critical")
