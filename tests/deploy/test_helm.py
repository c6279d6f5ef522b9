"""deploy/helm: the chart is sound, documented, and makes what deploy/kubernetes makes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_kubernetes import KUBERNETES, VERSIONS, manifests

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

Object = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> str:
    """Helm, beside this Python or in the path."""
    found = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    if found is None:
        pytest.skip("helm is not installed (`make .venv/helm-ready`, on Linux): the chart is not rendered")
    return found


def rendered(helm: str, values: Object | None = None) -> list[Object]:
    """What the chart makes with these values, by kind and name."""
    done = _template(helm, values)
    assert done.returncode == 0, done.stderr
    return by_name(yaml.safe_load_all(done.stdout))


def _template(helm: str, values: Object | None) -> subprocess.CompletedProcess[str]:
    command = [helm, "template", "any", CHART, "--namespace", "wa-ingest", "--kube-version", "1.37", "--values", "-"]
    return subprocess.run(command, input=yaml.safe_dump(values or {}), capture_output=True, text=True)


def by_name(objects: Iterator[Object]) -> list[Object]:
    return sorted(filter(None, objects), key=lambda one: (one["kind"], one["metadata"]["name"]))


def without_checksum(one: Object) -> Object:
    """It stands for the digest that kustomize adds to the ConfigMap's name."""
    annotations = one.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
    annotations.pop("checksum/settings", None)
    if annotations == {} and one["kind"] == "Deployment":
        del one["spec"]["template"]["metadata"]["annotations"]
    return one


def settings() -> Object:
    """The ConfigMap that kustomize makes."""
    lines = (KUBERNETES / "base" / "settings.env").read_text().splitlines()
    data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wa-ingest"}, "data": data}


def test_the_same_as_the_manifests(helm: str) -> None:
    """With its own values the chart makes the objects of deploy/kubernetes/base, field by field, but the namespace."""
    wanted = [one for one in manifests(KUBERNETES / "base") if one["kind"] != "Namespace"]
    assert [without_checksum(one) for one in rendered(helm)] == by_name(iter([*wanted, settings()]))


def test_lint(helm: str) -> None:
    """Helm finds nothing wrong."""
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


ALL_SET: Object = {
    "image": {"tag": "1", "digest": "sha256:" + "0" * 64, "pullPolicy": "Always", "pullSecrets": ["registry"]},
    "settings": {"WA_BATCH": 100, "WA_PARTITIONS": "64"},
    "receiver": {
        "replicas": 3,
        "secrets": {"redis-url": "redis://valkey:6379/0", "app-secret": "s"},
        "spool": {"storageClass": "fast"},
    },
    "worker": {
        "secrets": {"redis-url": "redis://valkey:6379/0"},
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bot", "key": "token"}}}],
        "envFrom": [{"secretRef": {"name": "bot"}}],
        "volumes": [{"name": "archive", "emptyDir": {}}],
        "volumeMounts": [{"name": "archive", "mountPath": "/archive"}],
    },
    "autoscaling": {"by": "none"},
}


def test_every_value_does_something(helm: str) -> None:
    """With all values set the objects are valid in Kubernetes, and hold them."""
    objects = rendered(helm, ALL_SET)
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    named = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    receiver, worker = named["StatefulSet", "receiver"]["spec"], named["Deployment", "worker"]["spec"]
    (container,) = worker["template"]["spec"]["containers"]
    assert (receiver["replicas"], worker["replicas"]) == (3, 2)
    assert receiver["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    assert container["image"] == "wa-ingest:1@sha256:" + "0" * 64
    assert worker["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert container["env"][-1] == ALL_SET["worker"]["env"][0]
    assert container["envFrom"][-1] == ALL_SET["worker"]["envFrom"][0]
    assert container["volumeMounts"][-1] == ALL_SET["worker"]["volumeMounts"][0]
    assert named["ConfigMap", "wa-ingest"]["data"]["WA_BATCH"] == "100"
    secret = named["Secret", "wa-ingest-receiver"]["stringData"]
    assert (secret["app-secret"], secret["path-secret"]) == ("s", "# not set")
    mounted = {env["value"].rpartition("/")[2] for env in receiver["template"]["spec"]["containers"][0]["env"][1:]}
    assert secret.keys() == mounted
    assert not any(kind == "HorizontalPodAutoscaler" for kind, _ in named)


def test_new_settings_replace_the_pods(helm: str) -> None:
    """The pods' templates differ when a setting or a secret of the chart differs."""
    made = [
        {
            one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            for one in rendered(helm, values)
            if one["kind"] in ("StatefulSet", "Deployment")
        }
        for values in ({}, {"settings": {"WA_BATCH": 100}}, {"worker": {"secrets": {"redis-url": "redis://h"}}})
    ]
    assert [len(one) for one in made] == [1, 1, 1]
    assert len(set.union(*made)) == 3


def test_keda_and_the_operator(helm: str) -> None:
    """KEDA's object and the PodMonitor are those of the README of the manifests, but for the namespace."""
    shown = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", _readme(), re.DOTALL)]
    wanted = [one for one in shown if one["kind"] in ("ScaledObject", "PodMonitor")]
    for one in wanted:
        del one["metadata"]["namespace"]
    objects = rendered(helm, {"autoscaling": {"by": "keda"}, "podMonitor": True})
    assert [one for one in objects if one["kind"] in ("ScaledObject", "PodMonitor")] == by_name(iter(wanted))
    assert not any(one["kind"] == "HorizontalPodAutoscaler" for one in objects)


def _readme() -> str:
    return (KUBERNETES / "README.md").read_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"worker": {"replica": 2}}, "replica"),
        ({"settings": {"wa_batch": 1}}, "wa_batch"),
        ({"autoscaling": {"by": "cpu"}}, "'hpa', 'keda', 'none'"),
        ({"receiver": {"secrets": {"app-secret": "s"}}}, "receiver.secrets needs redis-url"),
    ],
)
def test_wrong_values(helm: str, values: Object, said: str) -> None:
    """A value that the chart does not know, or a missing one, is named."""
    done = _template(helm, values)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_example_of_the_readme(helm: str) -> None:
    """The values in the README are right ones, and replace all that is an example."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    objects = rendered(helm, yaml.safe_load(example))
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    assert "example.com" not in yaml.safe_dump(objects)


def names(values: Object, above: str = "") -> Iterator[str]:
    """The values that a user sets, with dots; maps that users fill are one."""
    for name, value in values.items():
        path = f"{above}{name}"
        if (
            isinstance(value, dict)
            and value
            and path not in ("settings", "ingress.annotations")
            and name != "resources"
        ):
            yield from names(value, f"{path}.")
        else:
            yield path


def test_every_value_is_documented() -> None:
    """The table of the README has each value once, and no other."""
    table = (CHART / "README.md").read_text().partition("| value |")[2]
    named = [name for cell in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`([\w.]+)`", cell)]
    assert sorted(named) == sorted(names(VALUES))


def test_the_version() -> None:
    """Chart and application have the version of the package."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)
