"""Do the manifests of Spark and Flink clusters and jobs say what was asked for, and keep to Kubernetes' schemas?"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudsched.domain import framework_objects as objects
from cloudsched.domain.framework_job_objects import Target, code_object, end_object, flink_job_id, job_object, job_title
from cloudsched.domain.framework_objects import CLUSTER, CLUSTER_ID, FLINK, ROLE, SPARK, TENANT, TYPE, Build
from cloudsched.domain.framework_operators import operated_objects
from cloudsched.drivers.frameworks import ClusterWanted, JobWanted
from cloudsched.errors import Invalid

VERSIONS = ("1.30", "1.37")
KINDS = (SPARK, FLINK)
BUILDS = {SPARK: Build(SPARK, "spark:x", "/opt/spark", 185, "abc", "data"),
          FLINK: Build(FLINK, "flink:x", "/opt/flink", 9999, "abc", "data")}
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def wanted(kind: str = SPARK, **facts: Any) -> ClusterWanted:
    return ClusterWanted(**{"key": f"{kind}-dev-team-1", "kind": kind, "cluster_id": 12, "tenant": "Team A/B", "workers": 3,
                            "worker_cores_m": 2000, "worker_memory_mb": 8192, "master_cores_m": 1000, "master_memory_mb": 4096,
                            **facts})


def made(kind: str = SPARK, build: dict[str, Any] | None = None, **facts: Any) -> dict[str, dict[str, Any]]:
    """By kind and the end of the name."""
    found = objects.cluster_objects(wanted(kind, **facts), replace(BUILDS[kind], **(build or {})))
    return {f"{one['kind']} {one['metadata']['name'].rsplit('-', 1)[-1]}": one for one in found}


def pod(thing: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = thing["spec"]["template"]["spec"]
    return found


RICH: dict[str, Any] = {
    "build": {"node_selector": {"a": "b"}, "tolerations": ({"key": "k", "operator": "Exists"},), "service_account": "sa",
              "priority_class": "high", "pull_secrets": ("s",), "storage_class": "fast"},
    "options": {"on_demand_master": True, "launch_new_node": True, "dynamic_disk": True, "external_namespace": True,
                "image": "own:1"}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, RICH], ids=["plain", "rich"])
def test_the_schemas_are_kept(kind: str, version: str, more: dict[str, Any]) -> None:
    things = [*made(kind, **more).values(), objects.owner_object(wanted(kind), BUILDS[kind])]
    target = Target("spark://a:1" if kind == SPARK else "http://a:1", "data", key="spark-dev-team-1", owner_uid="u-1")
    job = JobWanted("j", 1, "/x/a.jar", "org.A", arguments=["1"], env={"A": "1"}, cores_max=2)
    things += [job_object(job, target, BUILDS[kind], code="/cloudsched/code/a.jar"),
               code_object(job, target, BUILDS[kind], content=b"PK", job_uid="u-2"),
               end_object("j", "j", {}, namespace="data", owners=[], state="killed", at="2024-01-01T00:00:00Z", log="x")]
    for one in things:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cluster_is_made_of(kind: str) -> None:
    found = made(kind)
    assert set(found) == {"ConfigMap conf", "Service master", "StatefulSet master", "Deployment worker"}
    assert found["StatefulSet master"]["spec"]["replicas"] == 1
    assert found["Deployment worker"]["spec"]["replicas"] == 3
    for one in found.values():
        labels = one["metadata"]["labels"]
        carried = [labels[one] for one in (CLUSTER_ID, TENANT, TYPE, CLUSTER)]
        assert carried == ["12", "Team-A-B", kind, f"{kind}-dev-team-1"]
        assert one["metadata"]["namespace"] == "data"
    for name in ("StatefulSet master", "Deployment worker"):
        spec = found[name]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        container = pod(found[name])["containers"][0]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod(found[name])["securityContext"]["runAsNonRoot"] is True
        assert pod(found[name])["automountServiceAccountToken"] is False
    service = found["Service master"]["spec"]
    assert service["selector"].items() <= found["StatefulSet master"]["spec"]["template"]["metadata"]["labels"].items()
    assert service["selector"][ROLE] == "master"
    worker = pod(found["Deployment worker"])["containers"][0]
    assert worker["resources"]["limits"] == {"cpu": "2000m", "memory": "8192Mi"}


def test_an_on_demand_master() -> None:
    found = made(options={"on_demand_master": True}, build={"on_demand": ("capacity", "steady")})
    terms = pod(found["StatefulSet master"])["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms == {"nodeSelectorTerms": [{"matchExpressions": [{"key": "capacity", "operator": "In", "values": ["steady"]}]}]}
    assert "affinity" not in pod(found["Deployment worker"])


@pytest.mark.parametrize(("options", "group"), [({"launch_new_node": True}, "dcluster"), ({"node_group": "team"}, "team")])
def test_nodes_that_are_launched_for_it(options: Any, group: str) -> None:
    found = made(options=options, build={"node_selector": {"a": "b"}, "node_group_label": "x/group"})
    for name in ("StatefulSet master", "Deployment worker"):
        assert pod(found[name])["nodeSelector"] == {"a": "b", "x/group": group}
        assert {"key": "x/group", "operator": "Equal", "value": group, "effect": "NoSchedule"} in pod(found[name])["tolerations"]


@pytest.mark.parametrize(("options", "size"), [({"dynamic_disk": True}, "50Gi"), ({"dynamic_disk_gb": 7}, "7Gi")])
def test_a_disk_for_each_worker(options: Any, size: str) -> None:
    spec = made(options=options, build={"storage_class": "fast"})["StatefulSet worker"]["spec"]
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == size
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["labels"][CLUSTER] == "spark-dev-team-1"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Delete"}
    assert "work" not in [one["name"] for one in spec["template"]["spec"]["volumes"]]


def test_settings_of_spark() -> None:
    found = made(settings={"spark.executor.instances": "2", "spark.x": "$(A) ; `b`"})["ConfigMap conf"]["data"]
    lines = found["spark-defaults.conf"].splitlines()
    assert "spark.executor.instances 2" in lines
    assert "spark.x $(A) ; `b`" in lines
    assert any(line.startswith("spark.executor.memory ") for line in lines)
    again = made(settings={"spark.executor.memory": "1g"})["ConfigMap conf"]["data"]["spark-defaults.conf"]
    assert "spark.executor.memory 1g\n" in again


def test_settings_of_flink() -> None:
    asked = {"state.backend.type": 'a: "b" # c', "taskmanager.numberOfTaskSlots": "7", "env.java.opts.all": "-Da=b"}
    read = yaml.safe_load(made(FLINK, settings=asked)["ConfigMap conf"]["data"]["config.yaml"])
    assert read["state.backend.type"] == 'a: "b" # c'
    assert read["taskmanager.numberOfTaskSlots"] == "7"
    assert "--add-opens=java.base/java.util=ALL-UNNAMED" in read["env.java.opts.all"]  # Flink does not start without
    assert read["env.java.opts.all"].endswith(" -Da=b")
    assert read["jobmanager.rpc.address"] == "flink-dev-team-1-master"
    assert read["taskmanager.memory.process.size"] == "8192m"
    assert "taskmanager.memory.jvm-metaspace.size" not in read
    small = yaml.safe_load(made(FLINK, worker_memory_mb=1024)["ConfigMap conf"]["data"]["config.yaml"])
    assert small["taskmanager.memory.jvm-metaspace.size"] == "128m"


@given(st.integers(min_value=768, max_value=2**20))
def test_what_a_spark_worker_offers_fits_into_its_pod(memory_mb: int) -> None:
    daemon_mb, offer_mb = objects.spark_worker_memory(wanted(worker_memory_mb=memory_mb))
    assert daemon_mb >= 128
    assert offer_mb >= 470  # less than 450 is refused by Spark's own memory manager
    assert daemon_mb + offer_mb + max(128, (memory_mb - daemon_mb) // 10) <= memory_mb


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.text(max_size=80))
@settings(max_examples=200)
def test_names_are_names(key: str, job: str) -> None:
    title = objects.title(key)
    assert LABEL.fullmatch(title) and len(title) <= objects.SHORT + 2
    assert LABEL.fullmatch(job_title(job)) and len(job_title(job)) <= objects.SHORT + 2
    assert re.fullmatch("[0-9a-f]{32}", flink_job_id(job))


def test_names_tell_apart() -> None:
    long = "spark-dev-" + "x" * 53
    assert objects.title(long) != objects.title(long[:-1] + "y")
    assert len({job_title(one) for one in ("A", "a", "a!", "a/", "-a")}) == 5
    assert objects.title("7-up") == "c-7-up"


@pytest.mark.parametrize(("tenant", "asked", "namespace"), [
    ("Team A/B", True, "team-a-b"), ("x", "shared", "shared"), ("x", None, "data"), ("x", False, "data")])
def test_its_namespace(tenant: str, asked: Any, namespace: str) -> None:
    option = "external_namespace" if asked is True else "namespace"
    assert objects.namespace_of(wanted(tenant=tenant, options={option: asked}), BUILDS[SPARK]) == namespace


def test_a_tenant_that_is_no_namespace() -> None:
    with pytest.raises(Invalid, match="namespace"):
        objects.namespace_of(wanted(tenant="!!", options={"namespace": True}), BUILDS[SPARK])


def test_a_daemon_that_leaves_nothing() -> None:
    assert objects.spark_worker_memory(wanted(options={"worker_daemon_memory_mb": 2048}))[0] == 2048
    with pytest.raises(Invalid, match="worker_daemon_memory_mb"):
        made(worker_memory_mb=2048, options={"worker_daemon_memory_mb": 1800})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        made(workers=-1, worker_memory_mb=1, settings={"": "x", "spark.y": "a\nb", "other": "1"}, options={"dynamic_disk_gb": -1})
    assert [one.field for one in caught.value.errors] == [
        "settings.", "settings.spark.y", "settings.other", "workers", "worker_memory_mb", "dynamic_disk_gb"]


def test_the_owner_tells_what_was_asked_for() -> None:
    asked = wanted(settings={"spark.a": "1"}, options={"node_group": "x"})
    told = json.loads(objects.owner_object(asked, BUILDS[SPARK])["data"]["wanted.json"])
    assert ClusterWanted(**told) == asked


# jobs

TARGET = Target("spark://m.data:7077", "data", key="spark-dev-team-1", owner_uid="u-1", labels={CLUSTER: "spark-dev-team-1"})


def command(job: JobWanted, kind: str = SPARK, target: Target = TARGET, code: str = "/cloudsched/code/x") -> list[str]:
    found: list[str] = job_object(job, target, BUILDS[kind], code=code)["spec"]["template"]["spec"]["containers"][0]["command"]
    return found


def test_spark_submit() -> None:
    job = JobWanted("job-1", 1, "/m/count.jar", "org.Count", arguments=["--in", "$(POD_IP)", "a b"],
                    settings={"spark.a": "x y"}, driver_memory_mb=512, executor_memory_mb=600, cores_max=2)
    assert command(job, code="/cloudsched/code/count.jar") == [
        "/opt/spark/bin/spark-submit", "--master", "spark://m.data:7077", "--deploy-mode", "client", "--name", "job-1",
        "--driver-memory", "512m", "--conf=spark.cores.max=2", "--conf=spark.executor.memory=600m", "--conf=spark.a=x y",
        "--conf=spark.driver.host=$(POD_IP)", "--class", "org.Count", "/cloudsched/code/count.jar", "--in", "$$(POD_IP)", "a b"]


def test_flink_run() -> None:
    job = JobWanted("job-1", 1, "/m/count.jar", "org.Count", arguments=["-o", "f"], settings={"pipeline.name": "x"}, cores_max=3)
    target = replace(TARGET, address="http://m.data:8081")
    assert command(job, FLINK, target, "/cloudsched/code/count.jar") == [
        "/opt/flink/bin/flink", "run", "-t", "remote", "-D", "rest.address=m.data", "-D", "rest.port=8081",
        "-D", "pipeline.name=x", "-D", f"$internal.pipeline.job-id={flink_job_id('job-1')}", "-p", "3", "-c", "org.Count",
        "/cloudsched/code/count.jar", "-o", "f"]
    spec = job_object(job, target, BUILDS[FLINK], code="/opt/x.jar")["spec"]["template"]["spec"]
    stop = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert stop[:2] == ["/opt/flink/bin/flink", "cancel"] and stop[-1] == flink_job_id("job-1")
    assert [one["name"] for one in spec["volumes"]] == ["work", "conf"]
    assert {"name": "FLINK_CONF_DIR", "value": "/cloudsched/conf"} in spec["containers"][0]["env"]


def test_an_executor_is_no_larger_than_a_worker() -> None:
    job = JobWanted("job-1", 1, "/m/a.py", executor_memory_mb=7372)
    assert "--conf=spark.executor.memory=6452m" in command(job, target=replace(TARGET, executor_mb=6452))
    assert "--conf=spark.executor.memory=7372m" in command(job)


def test_a_job_belongs_to_its_cluster_and_its_code_to_it() -> None:
    job = JobWanted("job-1", 1, "/m/w o r d.py")
    body = job_object(job, TARGET, BUILDS[SPARK], code="/cloudsched/code/w-o-r-d.py")
    [owner] = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ConfigMap", "u-1")
    assert body["metadata"]["labels"][CLUSTER] == "spark-dev-team-1"
    assert body["spec"]["backoffLimit"] == 0
    brought = code_object(job, TARGET, BUILDS[SPARK], content=b"\x00\xff", job_uid="u-2")
    assert {name: base64.b64decode(text) for name, text in brought["binaryData"].items()} == {"w-o-r-d.py": b"\x00\xff"}
    assert brought["metadata"]["ownerReferences"][0]["uid"] == "u-2"


# operators


def test_what_the_spark_operator_is_told() -> None:
    asked = wanted(settings={"spark.a": "1"}, options={"on_demand_master": True, "dynamic_disk_gb": 7})
    build = replace(BUILDS[SPARK], image="registry:5000/spark:4.3.0-java21")
    settings_map, thing = operated_objects(asked, build)
    assert (settings_map["kind"], thing["kind"], thing["metadata"]["name"]) == ("ConfigMap", "SparkCluster", asked.key)
    spec = thing["spec"]
    assert spec["runtimeVersions"] == {"sparkVersion": "4.3.0"}
    assert spec["clusterTolerations"]["instanceConfig"] == {"initWorkers": 3, "minWorkers": 3, "maxWorkers": 3}
    assert spec["sparkConf"]["spark.a"] == "1"
    assert spec["sparkConf"]["spark.kubernetes.container.image"] == "registry:5000/spark:4.3.0-java21"
    master, worker = (spec[one]["statefulSetSpec"] for one in ("masterSpec", "workerSpec"))
    assert "nodeAffinity" in master["template"]["spec"]["affinity"]
    [container] = worker["template"]["spec"]["containers"]
    assert (container["name"], container["resources"]["limits"]["memory"]) == ("worker", "8192Mi")
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert (told["SPARK_WORKER_CORES"], told["SPARK_WORKER_MEMORY"]) == ("2", "6452m")
    assert "SPARK_CONF_DIR" not in told and "command" not in container and "image" not in container
    assert worker["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "7Gi"


def test_what_the_flink_operator_is_told() -> None:
    asked = wanted(FLINK, settings={"state.backend.type": "rocksdb"}, master_cores_m=500)
    _, thing = operated_objects(asked, replace(BUILDS[FLINK], image="flink:2.3.0"))
    spec = thing["spec"]
    assert (spec["flinkVersion"], spec["mode"], spec["image"]) == ("v2_3", "standalone", "flink:2.3.0")
    assert spec["flinkConfiguration"]["state.backend.type"] == "rocksdb"
    assert not [key for key in spec["flinkConfiguration"] if key.startswith(("rest.", "jobmanager.rpc"))]
    assert spec["jobManager"]["resource"] == {"cpu": 0.5, "memory": "4096m"}
    assert (spec["taskManager"]["replicas"], spec["taskManager"]["resource"]["cpu"]) == (3, 2.0)
    template = spec["taskManager"]["podTemplate"]
    assert template["metadata"]["labels"][CLUSTER] == asked.key
    assert template["spec"]["containers"][0]["name"] == "flink-main-container"
    assert [one["name"] for one in template["spec"]["volumes"]] == ["work"]
