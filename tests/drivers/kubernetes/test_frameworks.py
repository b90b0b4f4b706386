"""Are Spark and Flink clusters in Kubernetes launched, seen, healed, adopted and taken away; and jobs on them?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched.domain.framework_objects import CLUSTER_ID, TENANT, TYPE
from cloudsched.drivers.base import REQUEST, DriverError
from cloudsched.drivers.frameworks import (
    FAILED,
    FLINK,
    KILLED,
    LOST,
    RUNNING,
    SPARK,
    SUCCEEDED,
    ClusterSeen,
    ClusterWanted,
    Handle,
    JobWanted,
)
from cloudsched.drivers.kubernetes.client import ApiRefused
from cloudsched.drivers.kubernetes.frameworks import KubernetesFramework, make
from cloudsched.errors import Invalid
from cloudsched.settings.dcluster import Dcluster
from cloudsched.testing.kubeapi import KubeApi, Rule
from tests.drivers.kubernetes.conftest import Cluster, place_on, until
from tests.drivers.kubernetes.frameworks import KINDS, Saved, left, on, up, wanted


@pytest.fixture
def spark(kube: KubeApi) -> KubernetesFramework:
    return on(kube)


@pytest.fixture
def code(tmp_path: Path) -> str:
    file = tmp_path / "count.py"
    file.write_text("print(1)\n")
    return str(file)


# on the stand-in, and on a real cluster with simulated nodes


@pytest.mark.parametrize("kind", KINDS)
def test_a_cluster_comes_and_goes(cluster: Cluster, space: str, kind: str) -> None:
    framework = make(kind, cluster.place(space), Dcluster())
    asked = wanted(f"{kind}-dev-team-1", kind, worker_cores_m=100, worker_memory_mb=1024)
    saved = Saved()
    handle = framework.launch(asked, {}, saved)
    assert saved == [handle]
    cluster.running(space, 3)
    seen = until(lambda: (seen := framework.look(asked, handle)).master and seen.workers == 2 and seen, "it is up")
    assert seen.facts["pending"] == []
    objects = [one for kind in ("ConfigMap", "Service", "StatefulSet", "Pod")
               for one in cluster.admin.objects(kind, namespace=space, selector=f"{CLUSTER_ID}=7")]
    assert len(objects) >= 6
    assert {(one["metadata"]["labels"][TENANT], one["metadata"]["labels"][TYPE]) for one in objects} == {("my-team", kind)}
    assert framework.clusters() == [asked.key]
    framework.stop(asked, handle)
    assert framework.clusters() == []
    assert cluster.admin.pods(space) == []
    kept = [one["metadata"]["name"] for one in cluster.admin.objects("ConfigMap", namespace=space)]
    assert not [one for one in kept if asked.key in one]
    framework.stop(asked, handle)  # what is gone is no error


def test_launching_twice_is_one_cluster(cluster: Cluster, space: str) -> None:
    asked = wanted(worker_cores_m=100)
    first, second = (make(SPARK, cluster.place(space), Dcluster()) for _ in range(2))
    handle = first.launch(asked, {}, Saved())
    saved = Saved()
    assert second.launch(asked, handle, saved) == handle
    assert saved == []
    cluster.running(space, 3)
    first.stop(asked, handle)


def test_a_job_runs_on_it_and_goes_with_it(cluster: Cluster, space: str, code: str) -> None:
    framework = make(SPARK, cluster.place(space), Dcluster())
    asked = wanted(worker_cores_m=100)
    framework.launch(asked, {}, Saved())
    cluster.running(space, 3)
    seen = framework.look(asked, {})
    handle = framework.submit(seen, JobWanted("job-1", 1, code), {}, Saved())
    again = framework.submit(seen, JobWanted("job-1", 1, code), handle, Saved())
    assert again == handle
    assert len(cluster.admin.objects("Job", namespace=space)) == 1
    until(lambda: framework.job(seen, handle).state in (RUNNING, SUCCEEDED), "the driver's pod runs")
    framework.stop(asked, {})
    assert cluster.admin.objects("Job", namespace=space) == []
    assert framework.job(seen, handle).state == LOST


# on the stand-in alone


def test_another_process_adopts_what_runs(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted(settings={"spark.eventLog.enabled": "false"}, options={"node_group": False})
    first = up(spark, asked)
    other = on(kube)
    assert other.clusters() == [asked.key]
    found = other.wanted(asked.key)
    assert found == asked
    assert other.look(found, {}) == first
    other.stop(ClusterWanted(asked.key, SPARK, 0, "", 0, 0, 0, 0, 0), {})  # the sweep knows the key alone
    assert left(kube) == []


def test_installations_and_kinds_do_not_see_each_other(kube: KubeApi, spark: KubernetesFramework) -> None:
    up(spark, wanted())
    stranger = make(SPARK, replace(place_on(kube), instance="another"), Dcluster())
    assert (stranger.clusters(), on(kube, FLINK).clusters()) == ([], [])
    with pytest.raises(DriverError, match="is not ours"):
        stranger.launch(wanted(), {}, Saved())


def test_a_lost_worker_is_seen_and_comes_back(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted()
    up(spark, asked)
    name = f"{asked.key}-worker"
    kube.controllers.paused = True
    spark._driver.delete([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}], wait=False)
    kube.controllers.paused = False
    until(lambda: spark.look(asked, {}).workers == 0, "they are gone")
    assert up(spark, asked).workers == 2


def test_what_somebody_scaled_is_as_it_was(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted()
    up(spark, asked)
    path = f"/apis/apps/v1/namespaces/default/deployments/{asked.key}-worker"
    spark._api.send("PATCH", path, {"spec": {"replicas": 0}}, content_type="application/merge-patch+json",
                    query={"fieldManager": "somebody"})
    until(lambda: spark.look(asked, {}).workers == 0, "no worker")
    assert up(spark, asked).workers == 2


def test_a_crash_after_the_owner(kube: KubeApi, spark: KubernetesFramework) -> None:
    """The handle was saved, nothing else was made: launched again, or swept."""
    def dies(handle: Handle) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        spark.launch(wanted(), {}, dies)
    assert on(kube).clusters() == [wanted().key]
    assert spark.look(wanted(), {}).master is False
    up(on(kube), wanted())
    on(kube).stop(wanted(), {})
    assert left(kube) == []


def test_one_that_goes_is_not_launched_into(kube: KubeApi, spark: KubernetesFramework) -> None:
    up(spark, wanted())
    kube.habits.stop_s = 3600
    spark._driver.delete([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": wanted().key}}], wait=False)
    seen = spark.look(wanted(), {})
    assert (seen.master, seen.reason) == (False, "it is being taken away")
    with pytest.raises(DriverError, match="still being taken away") as caught:
        spark.launch(wanted(), {}, Saved())
    assert caught.value.transient
    kube.habits.stop_s = 0
    spark.stop(wanted(), {})
    assert left(kube) == []


def test_pods_that_no_node_takes_are_told(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted(options={"node_group": True})
    spark.launch(asked, {}, Saved())
    seen = until(lambda: len((seen := spark.look(asked, {})).facts["pending"]) == 3 and seen, "three pods wait")
    assert [(one["role"], one["cores"], one["memory_mb"]) for one in seen.facts["pending"]] == [
        ("master", 0.25, 512), *[("worker", 0.5, 1024)] * 2]
    assert all("affinity/selector" in one["reason"] and one["since"] for one in seen.facts["pending"])
    assert "Unschedulable" in seen.reason
    label = {"cloudsched.io/node-group": "dcluster"}
    kube.add_node("new", labels=label, taints=[{"key": "cloudsched.io/node-group", "value": "dcluster", "effect": "NoSchedule"}])
    seen = until(lambda: (seen := spark.look(asked, {})).workers == 2 and seen, "the new node takes them")
    assert {one["node"] for one in seen.facts["pods"]} == {"new"}


def test_disks_go_with_their_cluster(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted(options={"dynamic_disk_gb": 20})
    up(spark, asked)
    claims = kube.things("PersistentVolumeClaim", "default")
    assert sorted(one["metadata"]["name"] for one in claims) == [f"work-{asked.key}-worker-{number}" for number in range(2)]
    assert {one["spec"]["resources"]["requests"]["storage"] for one in claims} == {"20Gi"}
    spark.stop(asked, {})
    assert left(kube) == []


def test_a_tenant_has_a_namespace_of_its_own(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted(options={"namespace": True})
    seen = up(spark, asked)
    assert seen.facts["namespace"] == "my-team"
    assert seen.address == f"spark://{asked.key}-master.my-team:7077"
    spark.stop(ClusterWanted(asked.key, SPARK, 0, "", 0, 0, 0, 0, 0), {})  # found by its label
    assert left(kube, "my-team") == []
    assert "my-team" in [one["metadata"]["name"] for one in kube.things("Namespace")]


@pytest.mark.parametrize(("facts", "field"), [
    ({"worker_memory_mb": 100}, "worker_memory_mb"), ({"master_cores_m": 0}, "master_cores_m"), ({"workers": -1}, "workers"),
    ({"settings": {"spark.master": "x"}}, "settings.spark.master"), ({"settings": {"a b": "x"}}, "settings.a b"),
    ({"settings": {"spark.x": "1\nspark.y 2"}}, "settings.spark.x"), ({"options": {"dynamic_disk_gb": "big"}}, "dynamic_disk_gb"),
    ({"options": {"namespace": "../x"}}, "namespace"), ({"key": "Not/A/Label"}, "key")])
def test_wrong_requests_name_the_field(kube: KubeApi, spark: KubernetesFramework, facts: dict[str, Any], field: str) -> None:
    with pytest.raises(DriverError) as caught:
        spark.launch(wanted(**facts), {}, Saved())
    assert caught.value.code == REQUEST
    assert caught.value.message.startswith(f"{field}: ")
    assert left(kube) == []


def test_an_image_that_cannot_be_had(kube: KubeApi, spark: KubernetesFramework) -> None:
    kube.habits.images["nowhere/x:1"] = "ImagePullBackOff"
    asked = wanted(options={"image": "nowhere/x:1"})
    spark.launch(asked, {}, Saved())
    seen = until(lambda: (seen := spark.look(asked, {})).reason and seen, "why it does not start")
    assert "ImagePullBackOff" in seen.reason and not seen.master


def test_what_may_not_be_done_is_told(kube: KubeApi) -> None:
    token = kube.add_user("poor", denied=[Rule(("patch", "create"), ("statefulsets",))])
    poor = on(kube, token=token)
    checks = poor.verify()
    assert [one.ok for one in checks] == [True, False]
    assert "statefulsets" in checks[1].detail
    with pytest.raises(DriverError, match="statefulsets"):
        poor.launch(wanted(), {}, Saved())
    poor.stop(wanted(), {})
    assert left(kube) == []


@pytest.mark.parametrize("kind", KINDS)
def test_verify_makes_nothing(kube: KubeApi, kind: str) -> None:
    assert [one.ok for one in on(kube, kind).verify()] == [True, True]
    assert left(kube) == []


def test_only_its_namespace_may_be_looked_into(kube: KubeApi) -> None:
    token = kube.add_user("local", Rule(("*",), ("*",), ("default",)))
    local = on(kube, token=token)
    up(local, wanted())
    assert local.clusters() == [wanted().key]
    local.stop(wanted(), {})
    assert left(kube) == []


def test_a_cloud_may_say_what_is_built(kube: KubeApi) -> None:
    special = make(SPARK, place_on(kube, kube_spark_image="own/spark:1", kube_spark_user="1000", dynamic_disk_gb="5"))
    assert (special.build.image, special.build.user, special.build.disk_gb) == ("own/spark:1", 1000, 5)
    assert make(SPARK, place_on(kube), Dcluster(kube_spark_image="x:1")).build.image == "x:1"
    for option, value in (("kube_spark_user", "root"), ("on_demand_label", "x")):
        with pytest.raises(Invalid, match=option):
            make(SPARK, place_on(kube, **{option: value}))
    with pytest.raises(Invalid, match="kind"):
        make("storm", place_on(kube))


# jobs


def run(framework: KubernetesFramework, entry: str, key: str = "job-1", **facts: Any) -> tuple[ClusterSeen, Handle]:
    kind = framework.kind
    seen = up(framework, wanted(f"{kind}-dev-team-1", kind))
    saved = Saved()
    handle = framework.submit(seen, JobWanted(key, 1, entry, **facts), {}, saved)
    assert saved == [handle]
    return seen, handle


def pod_of(kube: KubeApi, job: str = "job-1") -> str:
    return str(until(lambda: [one["metadata"]["name"] for one in kube.things("Pod", "default")
                              if one["metadata"]["name"].startswith(f"{job}-") and one["status"].get("phase") == "Running"],
                     "its pod runs")[0])


def test_a_job_that_succeeds(kube: KubeApi, spark: KubernetesFramework, code: str) -> None:
    kube.habits.job_s = None
    seen, handle = run(spark, code)
    pod = pod_of(kube)
    assert spark.log(seen, handle) == b""
    kube.write_log(f"default/{pod}", "framework", "Connected to Spark cluster with app ID app-20240102030405-0007\nthe answer\n")
    told = spark.job(seen, handle)
    assert (told.state, told.application_id, told.exit_code) == (RUNNING, "app-20240102030405-0007", None)
    assert told.started_at
    assert spark.look(wanted(), {}).busy
    kube.end_pod("default", pod, exit_code=0)
    told = until(lambda: (told := spark.job(seen, handle)).state == SUCCEEDED and told, "it has succeeded")
    assert (told.exit_code, told.application_id) == (0, "app-20240102030405-0007")
    assert told.ended_at
    assert not spark.look(wanted(), {}).busy
    text = spark.log(seen, handle)
    assert text.endswith(b"the answer\n")
    assert spark.log(seen, handle, offset=10, limit=5) == text[10:15]
    assert spark.log(seen, handle, offset=len(text)) == b""
    on(kube).forget(handle)
    assert not [one for one in left(kube) if "job-1" in one]


def test_a_job_whose_node_gives_no_log(kube: KubeApi, spark: KubernetesFramework, code: str) -> None:
    """How it is, is known without its log; and the node is not asked at every look."""
    kube.habits.job_s, kube.habits.answers = None, False
    seen, handle = run(spark, code)
    pod = pod_of(kube)
    kube.seen.clear()
    assert [(told.state, told.application_id) for told in (spark.job(seen, handle) for _ in range(3))] == [(RUNNING, "")] * 3
    assert len([path for _, path, _ in kube.seen if path.endswith(f"/{pod}/log")]) == 1
    with pytest.raises(DriverError, match="connection refused"):
        spark.log(seen, handle)
    spark.kill(seen, handle)
    assert spark.job(seen, handle).state == KILLED


def test_a_job_that_fails(kube: KubeApi, spark: KubernetesFramework, code: str) -> None:
    kube.habits.job_s = None
    seen, handle = run(spark, code)
    kube.end_pod("default", pod_of(kube), exit_code=3)
    told = until(lambda: (told := spark.job(seen, handle)).state == FAILED and told, "it has failed")
    assert told.exit_code == 3
    assert "exit status 3" in told.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_killed(kube: KubeApi, tmp_path: Path, kind: str) -> None:
    kube.habits.job_s = None
    entry = tmp_path / "count.jar"
    entry.write_bytes(b"PK\x03\x04")
    framework = on(kube, kind)
    seen, handle = run(framework, str(entry), main_class="org.example.Count")
    kube.write_log(f"default/{pod_of(kube)}", "framework", "half way\n")
    framework.kill(seen, handle)
    assert not [one for one in kube.things("Pod", "default") if one["metadata"]["name"].startswith("job-1-")]
    told = on(kube, kind).job(seen, handle)
    assert (told.state, told.reason) == (KILLED, "it was ended")
    assert told.ended_at
    assert framework.log(seen, handle) == b"half way\n"
    framework.kill(seen, handle)
    framework.forget(handle)
    assert not [one for one in left(kube) if "job-1" in one]


def test_an_ended_job_is_not_killed(kube: KubeApi, spark: KubernetesFramework, code: str) -> None:
    seen, handle = run(spark, code)
    until(lambda: spark.job(seen, handle).state == SUCCEEDED, "it has succeeded")
    spark.kill(seen, handle)
    assert spark.job(seen, handle).state == SUCCEEDED


def test_a_crash_between_job_and_code(kube: KubeApi, spark: KubernetesFramework, code: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod waits for its code; submitted again, it gets it."""
    seen = up(spark, wanted())
    create: Callable[..., Any] = spark._jobs._create

    def dies(resource: Any, body: Any) -> Any:
        if body["kind"] == "ConfigMap":
            raise SystemExit
        return create(resource, body)

    monkeypatch.setattr(spark._jobs, "_create", dies)
    saved = Saved()
    with pytest.raises(SystemExit):
        spark.submit(seen, JobWanted("job-1", 1, code), {}, saved)
    other = on(kube)
    assert other.job(seen, saved[0]).state == "submitted"
    other.submit(seen, JobWanted("job-1", 1, code), saved[0], Saved())
    until(lambda: other.job(seen, saved[0]).state == SUCCEEDED, "it has succeeded")


def test_code_that_is_too_large(kube: KubeApi, spark: KubernetesFramework, tmp_path: Path) -> None:
    entry = tmp_path / "large.jar"
    entry.write_bytes(b"x" * 1_000_001)
    job = JobWanted("job-1", 1, str(entry), main_class="A")
    seen = up(spark, wanted())
    with pytest.raises(DriverError, match="kube_code_dir") as caught:
        spark.submit(seen, job, {}, Saved())
    assert caught.value.code == REQUEST
    inside = on(kube, said={"kube_code_dir": "/opt/code/"})
    inside.submit(seen, job, {}, Saved())
    assert _command(kube)[-1] == "/opt/code/large.jar"


def test_code_from_elsewhere(kube: KubeApi, spark: KubernetesFramework) -> None:
    seen = up(spark, wanted())
    given = {"local:///opt/app.py": "/opt/app.py", "s3a://bucket/app.py": "s3a://bucket/app.py"}
    for number, (entry, there) in enumerate(given.items()):
        spark.submit(seen, JobWanted(f"job-{number}", 1, entry), {}, Saved())
        assert _command(kube, f"job-{number}")[-1] == there
    flink = on(kube, FLINK)
    with pytest.raises(DriverError, match="fetches nothing"):
        flink.submit(seen, JobWanted("job-3", 1, "https://example.org/a.jar"), {}, Saved())


def test_a_cluster_of_others(kube: KubeApi, spark: KubernetesFramework, code: str) -> None:
    """Only its address is known: the job has no owner but itself."""
    handle = spark.submit(ClusterSeen(True, 0, "spark://elsewhere:7077"), JobWanted("job-1", 1, code), {}, Saved())
    command = _command(kube)
    assert command[command.index("--master") + 1] == "spark://elsewhere:7077"
    assert "ownerReferences" not in kube.things("Job", "default")[0]["metadata"]
    spark.forget(handle)
    assert left(kube) == []


@pytest.mark.parametrize(("facts", "field"), [
    ({"entry": "x.sh"}, "entry"), ({"entry": "x.jar"}, "main_class"), ({"settings": {"a": "b"}}, "settings.a"),
    ({"cores_max": -1}, "cores_max"), ({"env": {"A B": "1"}}, "env.A B"), ({"arguments": ["\0"]}, "arguments[0]")])
def test_wrong_jobs_name_the_field(kube: KubeApi, spark: KubernetesFramework, tmp_path: Path, facts: dict[str, Any],
                                   field: str) -> None:
    entry = tmp_path / facts.get("entry", "x.py")
    entry.write_text("")
    with pytest.raises(DriverError) as caught:
        job = JobWanted(**{"key": "j", "job_id": 1, **facts, "entry": str(entry)})
        spark.submit(ClusterSeen(True, 0, "spark://a:1"), job, {}, Saved())
    assert (caught.value.code, caught.value.message.split(": ")[0]) == (REQUEST, field)
    assert left(kube) == []


def test_an_entry_that_cannot_be_read(spark: KubernetesFramework) -> None:
    with pytest.raises(DriverError, match="cannot be read: No such file"):
        spark.submit(ClusterSeen(True, 0, "spark://a:1"), JobWanted("j", 1, "/nowhere/x.py"), {}, Saved())


def _command(kube: KubeApi, job: str = "job-1") -> list[str]:
    found = next(one for one in kube.things("Job", "default") if one["metadata"]["name"] == job)
    command: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
    return command


# masters that can be asked


class Master:
    """Answers as a master would, through the API server."""

    def __init__(self, framework: KubernetesFramework, answers: dict[str, Any]) -> None:
        self.answers, self.asked = answers, list[tuple[str, str]]()
        self._send = framework._masters._api.send
        framework._masters._api.send = self  # type: ignore[method-assign,assignment]

    def __call__(self, method: str, path: str, *args: Any, **how: Any) -> Any:
        if "/proxy/" not in path:
            return self._send(method, path, *args, **how)
        page = path.partition("/proxy")[2]
        self.asked.append((method, page))
        answer = self.answers.get(f"{method} {page}", self.answers.get(page))
        if isinstance(answer, DriverError):
            raise answer
        return 200, answer() if callable(answer) else answer


def _no(status: int) -> ApiRefused:
    return ApiRefused("no", status=status, reason="", causes=[], retry_after_s=None, code=REQUEST, transient=False)


def test_workers_count_when_the_master_knows_them(kube: KubeApi, spark: KubernetesFramework) -> None:
    asked = wanted()
    up(spark, asked)
    Master(spark, {"/json/": {"aliveworkers": 1, "activeapps": [{"id": "app-1"}]}})
    seen = spark.look(asked, {})
    assert (seen.workers, seen.busy) == (1, True)
    Master(on(kube, FLINK), {})


@pytest.mark.parametrize("status", [403, 503])
def test_a_master_that_cannot_be_asked_is_left_alone(spark: KubernetesFramework, status: int) -> None:
    asked = wanted()
    up(spark, asked)
    master = Master(spark, {"/json/": _no(status)})
    assert [spark.look(asked, {}).workers for _ in range(3)] == [2, 2, 2]
    assert len(master.asked) == 1


def test_a_flink_job_is_cancelled_on_its_master(kube: KubeApi, tmp_path: Path) -> None:
    kube.habits.job_s = None
    entry = tmp_path / "count.jar"
    entry.write_bytes(b"PK")
    flink = on(kube, FLINK)
    seen, handle = run(flink, str(entry), main_class="A")
    pod_of(kube)
    number = flink.job(seen, handle).application_id
    assert len(number) == 32 and f"$internal.pipeline.job-id={number}" in _command(kube)
    states = iter(["RUNNING", "CANCELLING", "CANCELED"])
    master = Master(flink, {f"GET /jobs/{number}": lambda: {"state": next(states)}, f"PATCH /jobs/{number}": {}})
    flink.kill(seen, handle)
    assert master.asked == [("GET", f"/jobs/{number}"), ("PATCH", f"/jobs/{number}"), *[("GET", f"/jobs/{number}")] * 2]
    assert flink.job(seen, handle).state == KILLED


@pytest.mark.parametrize(("state", "word"), [
    ("RUNNING", RUNNING), ("FINISHED", SUCCEEDED), ("FAILED", FAILED), ("CANCELED", KILLED)])
def test_a_flink_job_outlives_its_client(kube: KubeApi, tmp_path: Path, state: str, word: str) -> None:
    """The client's pod was lost with its node: the master knows how the job is."""
    kube.habits.job_s = None
    entry = tmp_path / "count.jar"
    entry.write_bytes(b"PK")
    flink = on(kube, FLINK)
    seen, handle = run(flink, str(entry), main_class="A")
    kube.end_pod("default", pod_of(kube), exit_code=137)
    until(lambda: flink.job(seen, handle).state == FAILED, "the client has ended")
    Master(flink, {f"/jobs/{flink.job(seen, handle).application_id}": {"state": state}})
    assert flink.job(seen, handle).state == word
