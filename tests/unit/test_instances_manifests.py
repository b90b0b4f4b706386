"""Are the manifests of resource instances what Kubernetes takes, and what was asked for?"""

from __future__ import annotations

import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]

from cloudsched.domain import instance_manifests as manifests
from cloudsched.domain import instances
from tests.unit.test_instances import SEED

VERSIONS = ("1.30", "1.37")
ENGINES = tuple(instances.ENGINES)


def made(*, stopped: bool = False, **fields: Any) -> dict[str, Any]:
    """The manifests by kind."""
    engine = fields.get("source_podengine", "StatefulSet")
    restart = instances.ENGINES[engine][0]
    spec = instances.read({**SEED, "source_restartpolicy": restart, **fields})
    names = instances.names_of("evfldtxjkr3jd8zxnfhd5", cluster="c", org="o", engine=engine)
    return {one["kind"]: one for one in manifests.all_of(names, spec, "pa55 word", stopped=stopped)}


def pod_of(found: dict[str, Any], engine: str) -> dict[str, Any]:
    controller = found["Pod" if engine == "Standalone" else engine]
    template = controller["spec"].get("jobTemplate", controller)["spec"].get("template", controller)
    spec: dict[str, Any] = template["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
def test_they_keep_to_the_schemas(version: str) -> None:
    """Each kind once as rich as it gets, and the controllers once more when they are stopped."""
    unique: dict[str, Any] = {}
    for engine, mode in zip(ENGINES, instances.PORT_MODES * 2, strict=True):
        more = {"source_replicasetmax": "3"} if engine in instances.SCALED else {}
        unique |= made(source_podengine=engine, source_portmode=mode, source_gpu="2", **more)
        unique |= {f"{kind} stopped": one for kind, one in made(source_podengine=engine, stopped=True).items() if kind == engine}
    unique["database"] = made(instance_type="RelationalDB", pod_imagepath="docker.io/library/mysql:8.0")["StatefulSet"]
    assert {kind for kind in manifests.KINDS if kind in unique} == set(manifests.KINDS)
    for one in unique.values():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_asked_for_is_in_them(engine: str) -> None:
    found = made(source_podengine=engine, source_gpu="2", gpu_model="V100")
    spec = pod_of(found, engine)
    [container] = spec["containers"]
    assert container["image"] == SEED["pod_imagepath"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "20Gi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["nodeSelector"] == {"kyy-gpu": "false"}
    assert spec["restartPolicy"] == instances.ENGINES[engine][0]
    assert spec["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/mnt/data"}]
    assert found["Service"]["spec"]["ports"] == [
        {"name": "service", "protocol": "TCP", "port": 6035, "targetPort": 3306, "nodePort": 30063}]


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_of_an_instance_carries_its_label(engine: str) -> None:
    for kind, one in made(source_podengine=engine, source_portmode="Ingress").items():
        labels = one["metadata"]["labels"]
        assert labels[manifests.MANAGED] == "cloudsched"
        if kind not in ("Namespace", "ServiceAccount"):
            assert labels[manifests.INSTANCE] == "evfldtxjkr3jd8zxnfhd5"
            assert labels["app"] == "ubuntu3"


def test_storage_is_one_volume_per_pod() -> None:
    assert made()["StatefulSet"]["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"] == {"storage": "49Gi"}
    one = made(source_podengine="Deployment")
    assert pod_of(one, "Deployment")["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "evfldtxjkr3jd8zxnfhd5-claim"}}]
    assert one["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    two = made(source_podengine="Deployment", source_replicasetnum="2")
    assert "PersistentVolumeClaim" not in two
    assert "ephemeral" in pod_of(two, "Deployment")["volumes"][0]
    assert "volumes" not in pod_of(made(source_podengine="Job", source_storagelimits="0"), "Job")


def test_an_autoscaler_decides_how_many_there_are() -> None:
    found = made(source_podengine="Deployment", source_replicasetnum="2", source_replicasetmax="5")
    assert "replicas" not in found["Deployment"]["spec"]
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], scaler["scaleTargetRef"]["kind"]) == (2, 5, "Deployment")


@pytest.mark.parametrize("engine", ENGINES)
def test_stopped_means_that_nothing_runs_and_the_data_stays(engine: str) -> None:
    found = made(source_podengine=engine, stopped=True)
    spec = (found.get(engine) or {"spec": {}})["spec"]
    assert {"StatefulSet": spec.get("replicas") == 0, "Deployment": spec.get("replicas") == 0, "Job": spec.get("suspend") is True,
            "CronJob": spec.get("suspend") is True}.get(engine, "Pod" not in found and engine not in found)
    kept = "PersistentVolumeClaim" in found or "volumeClaimTemplates" in spec
    assert kept or engine == "DaemonSet"


def test_a_database_gets_its_account_port_and_data() -> None:
    mysql = {"instance_type": "RelationalDB", "pod_imagepath": "docker.io/library/mysql:8.0", "source_insideport": "3307"}
    [container] = pod_of(made(**mysql), "StatefulSet")["containers"]
    assert [one["name"] for one in container["env"]] == ["MYSQL_ROOT_PASSWORD", "MYSQL_ROOT_HOST"]
    assert container["args"] == ["--port=3307", "--datadir=/mnt/data"]
    assert container["volumeMounts"][0]["subPath"] == "data"
    [container] = pod_of(made(**mysql, source_authuser="app"), "StatefulSet")["containers"]
    assert {"MYSQL_USER", "MYSQL_PASSWORD"} <= {one["name"] for one in container["env"]}
    [container] = pod_of(made(instance_type="RelationalDB", pod_imagepath="postgres:17"), "StatefulSet")["containers"]
    assert {"POSTGRES_USER", "POSTGRES_PASSWORD", "PGDATA"} <= {one["name"] for one in container["env"]}


def test_a_notebook_keeps_its_own_program() -> None:
    [container] = pod_of(made(pod_imagepath="docker.io/jupyter/base-notebook:latest"), "StatefulSet")["containers"]
    assert "command" not in container
    assert container["env"][0]["name"] == "JUPYTER_TOKEN"


def test_a_command_is_not_expanded_by_kubernetes() -> None:
    [container] = pod_of(made(source_command="echo $(date)"), "StatefulSet")["containers"]
    assert {"name": "INSTANCE_COMMAND", "value": "echo $$(date)"} in container["env"]


def test_the_shell_of_a_container_that_stays_up_is_sound() -> None:
    [container] = pod_of(made(), "StatefulSet")["containers"]
    shell, flag, script = container["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    subprocess.run([shell, "-n", "-c", script], check=True, timeout=30)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_yaml_says_the_same_and_no_secret(engine: str) -> None:
    found = made(source_podengine=engine, source_portmode="Ingress", source_selflabel="on:yes,n:1")
    text = manifests.as_yaml(found.values())
    read = list(yaml.safe_load_all(text))
    assert "pa55" not in text
    assert [one["kind"] for one in read] == list(found)
    for one in read:
        if one["kind"] != "Secret":
            assert one == found[one["kind"]]
    assert found["Secret"]["data"]["password"] not in text
