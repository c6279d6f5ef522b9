"""deploy/kubernetes: valid manifests, and what they say of wa-ingest is so."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ingest.admin import collectors
from ingest.settings import Settings, load, unknown_variables
from ingest.store.queues import LANES
from workers.cli import process_specs

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.27", "1.37")
"""The oldest that README.md promises, and the newest that there is a schema of."""

Object = dict[str, Any]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")


def manifests(folder: Path) -> Iterator[Object]:
    """What a kustomization lists, as it is in the files."""
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = (folder / name).resolve()
        yield from manifests(path) if path.is_dir() else yaml.safe_load_all(path.read_text())


def built(folder: Path) -> list[Object]:
    """What kustomize makes of it."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


ALL = list(manifests(KUBERNETES / "try-out"))
PODS: dict[str, Object] = {
    one["metadata"]["name"]: one["spec"]["template"] for one in ALL if one["kind"] in ("StatefulSet", "Deployment")
}
OURS = ("receiver", "worker")


def container(name: str) -> Object:
    (only,) = PODS[name]["spec"]["containers"]
    return dict(only)


def kind(name: str) -> list[Object]:
    found = [one for one in ALL if one["kind"] == name]
    assert found
    return found


def selected(labels: dict[str, str]) -> list[str]:
    """The pods that have these labels."""
    return [name for name, pod in PODS.items() if labels.items() <= pod["metadata"]["labels"].items()]


def environment(name: str, secrets: Path) -> dict[str, str]:
    """The variables of a pod of the try-out, with its secret's files in that folder."""
    made = yaml.safe_load((KUBERNETES / "try-out" / "kustomization.yaml").read_text())["secretGenerator"]
    (literals,) = (one["literals"] for one in made if one["name"] == f"wa-ingest-{name}")
    for literal in literals:
        key, _, value = literal.partition("=")
        (secrets / key).write_text(value)
    lines = (KUBERNETES / "base" / "settings.env").read_text().splitlines()
    common = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    own = {one["name"]: one["value"].replace("/secrets/", f"{secrets}/") for one in container(name)["env"]}
    return common | own


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_valid(one: Object, version: str) -> None:
    """Each manifest is valid in the oldest and the newest Kubernetes, without an unknown field."""
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", ["spec: {replica: 2}", "spec: {replicas: two}"])
def test_a_wrong_manifest_is_found(text: str, version: str) -> None:
    """A misspelt field and a value of the wrong type are no valid manifest."""
    (statefulset, *_) = kind("StatefulSet")
    wrong = statefulset | {"spec": statefulset["spec"] | yaml.safe_load(text)["spec"]}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@needs_kubectl
@pytest.mark.parametrize("folder", ["base", "try-out"])
def test_as_kustomize_builds_it(folder: str) -> None:
    """What kustomize makes of it is valid, all in one namespace, and the pods name the ConfigMap that it generates."""
    objects = built(KUBERNETES / folder)
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
        assert one["metadata"].get("namespace", "wa-ingest") == "wa-ingest"
    (settings,) = (one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap")
    assert yaml.safe_dump(objects).count(f"name: {settings}\n") == 1 + len(OURS)


@needs_kubectl
def test_the_kustomization_of_the_readme(tmp_path: Path) -> None:
    """The example in README.md builds: image, host, settings and secrets are those of the user."""
    text = (KUBERNETES / "README.md").read_text()
    (tmp_path / "wa-ingest").symlink_to(ROOT)
    mine = tmp_path / "mine"
    (mine / "secrets").mkdir(parents=True)
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    (mine / "kustomization.yaml").write_text(example)
    for name in re.findall(r"=(secrets/[\w-]+)", example):
        (mine / name).write_text("x\n")

    objects = built(mine)

    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    everything = yaml.safe_dump(objects)
    assert "example.com" not in everything
    assert everything.count("image: REGISTRY/bot:1") == len(OURS)
    settings, receiver, worker = (
        one for one in objects if one["kind"] in ("ConfigMap", "Secret") and "wa-ingest" in one["metadata"]["name"]
    )
    assert settings["data"] == {"WA_ADMIN_LISTEN": "0.0.0.0:9100", "WA_DEDUP_WINDOW": "7d", "WA_PARTITIONS": "64"}
    assert {base64.b64decode(value) for value in (receiver["data"] | worker["data"]).values()} == {b"x\n"}
    for secret in (receiver, worker):
        assert f"secretName: {secret['metadata']['name']}\n" in everything


@pytest.mark.parametrize("name", OURS)
def test_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is a setting, its value is a right one, and a file of the secret that says so sets none."""
    for variable, value in environment(name, tmp_path).items():
        monkeypatch.setenv(variable, value)
    assert unknown_variables() == []
    settings = load()
    assert settings.redis_url
    assert settings.redis_url.get_secret_value() == "redis://valkey:6379/0"
    assert settings.app_secret is None


def test_probes_of_the_receiver(
    tmp_path: Path,
    redis_url: str,
    free_port: Callable[[], int],
    run_module: Callable[..., Any],
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real receiver with the manifest's settings answers 200 to each probe, on the port where its setting puts it."""
    for variable, value in environment("receiver", tmp_path).items():
        monkeypatch.setenv(variable, value)
    ports = {port["name"]: port["containerPort"] for port in container("receiver")["ports"]}
    settings = load()
    assert ports == {"public": settings.listen[1], "admin": settings.admin_listen[1]}

    here = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("WA_ADMIN_LISTEN", here)
    monkeypatch.setenv("WA_LISTEN", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("WA_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("WA_REDIS_URL", redis_url)
    receiver = run_module("ingest.server", stdout=subprocess.DEVNULL)

    def answers(probe: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{here}{probe}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert receiver.poll() is None
            return False

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container("receiver")[probe]["httpGet"]
        assert asked["port"] == "admin"
        wait_for(lambda path=asked["path"]: answers(path), 30, probe)


def test_probe_of_the_worker() -> None:
    """Kubernetes and both compose files ask the same of the workers, and a command that there is."""
    command = container("worker")["livenessProbe"]["exec"]["command"]
    assert command == ["wa-ingest", "work", "--healthy"]
    for file in ("docker-compose.yml", "docker-compose.ha.yml"):
        assert f"test: {json.dumps(['CMD', *command])}" in (ROOT / file).read_text()


@pytest.mark.parametrize("name", OURS)
def test_time_to_stop(name: str) -> None:
    """A pod has more time than its preStop and a child process may take."""
    hook = container(name).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert hook[0] == "sleep"
    grace = PODS[name]["spec"]["terminationGracePeriodSeconds"]
    assert grace > float(hook[1]) + _longest_stop(name)


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.ha.yml"])
def test_time_to_stop_in_compose(file: str) -> None:
    """A container has more time than a child process may take, of whichever command."""
    (grace,) = re.findall(r"stop_grace_period: (\d+)s", (ROOT / file).read_text())
    assert float(grace) > max(map(_longest_stop, OURS))


def test_the_documents_agree_about_the_time_to_stop() -> None:
    """What they say that running handlers get is what WA_STOP_SECONDS is unless it is set."""
    seconds = f"WA_STOP_SECONDS ({load(redis_url='redis://h', handler_timeout=999.0).stops_within:g}"
    for file in ("docs/handlers.md", "deploy/kubernetes/README.md", "deploy/kubernetes/base/worker.yaml"):
        assert seconds in (ROOT / file).read_text(), file


def _longest_stop(name: str) -> float:
    """What a child process of that pod may take to stop, in seconds, unless WA_STOP_SECONDS is set."""
    settings = load(redis_url="redis://h", handler_timeout=999.0)
    workers = process_specs.workers(settings)
    return workers[0].stop_seconds if name == "worker" else process_specs.receivers(settings, 1).stop_seconds


@pytest.mark.parametrize("name", PODS)
def test_nobody_is_root(name: str) -> None:
    """Each pod runs as its image's user, with no right to become more, and has no token of the cluster."""
    pod, own = PODS[name]["spec"], container(name)["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    if name in OURS:
        (uid,) = re.findall(r"useradd --uid (\d+)", (ROOT / "Dockerfile").read_text())
        users = {pod["securityContext"][field] for field in ("runAsUser", "runAsGroup", "fsGroup")}
        assert users == {int(uid)}


def test_what_belongs_together() -> None:
    """Services, budgets, network policies, autoscaler and ingress mean pods and ports that exist."""
    for service in kind("Service"):
        (name,) = selected(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {
            p["name"] for p in container(name)["ports"]
        }
    for budget in kind("PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"]) == [budget["metadata"]["name"]]
    for policy in kind("NetworkPolicy"):
        (name,) = selected(policy["spec"]["podSelector"]["matchLabels"])
        opened = {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]}
        assert opened == {port["containerPort"] for port in container(name).get("ports", ())}
    (ingress,) = kind("Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["path"] == Settings().path
    assert path["backend"]["service"] == {"name": "receiver", "port": {"name": "public"}}


def test_the_spool_outlives_the_pod() -> None:
    """WA_SPOOL_DIR is on a volume that each receiver keeps."""
    (receiver,) = (one for one in kind("StatefulSet") if one["metadata"]["name"] == "receiver")
    (claim,) = receiver["spec"]["volumeClaimTemplates"]
    (mounted,) = (m for m in container("receiver")["volumeMounts"] if m["name"] == claim["metadata"]["name"])
    assert {"name": "WA_SPOOL_DIR", "value": mounted["mountPath"]} in container("receiver")["env"]
    assert receiver["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_partitions() -> None:
    """How many there are is left to the default, and the pages and comments that give the number give that one."""
    assert "WA_PARTITIONS" not in (KUBERNETES / "base" / "settings.env").read_text()
    for page in (KUBERNETES / "README.md", KUBERNETES / "base" / "autoscaling.yaml", ROOT / "docs" / "operations.md"):
        given = re.findall(r"WA_PARTITIONS`? \((\d+)\)", page.read_text())
        assert set(given) == {str(Settings.model_fields["partitions"].default)}, page


def test_autoscaling() -> None:
    """It goes by metrics and lanes that exist, up to as many workers as there are partitions, and comes down slowly."""
    (scaler,) = kind("HorizontalPodAutoscaler")
    spec = scaler["spec"]
    (workers,) = (one for one in kind("Deployment") if one["metadata"]["name"] == spec["scaleTargetRef"]["name"])
    assert "replicas" not in workers["spec"], "each apply would set it back"
    metrics = [metric["external"]["metric"] for metric in spec["metrics"] if metric["type"] == "External"]
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert {metric["name"] for metric in metrics} == {rule["seriesQuery"]}
    assert rule["seriesQuery"].removeprefix("wa_lane_") in collectors.LANE_GAUGES
    assert {metric["selector"]["matchLabels"]["lane"] for metric in metrics} <= set(LANES)
    assert spec["maxReplicas"] <= Settings().partitions
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
