"""The executor without hosts: what is written down of an installation, how it goes on, and clusters reached by kubeconfig."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.base import AUTH, ENDPOINT, DriverError
from cloudsched.drivers.installing import slurm
from cloudsched.drivers.installing.hosts import Progress, Script
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services import operations
from cloudsched.services.centre import centre_calls, executor, executor_rows
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre.executor import Access, Where
from cloudsched.store import db, events, migrations
from cloudsched.store import operations as store
from cloudsched.testing.kubeapi import KubeApi

PASSWORD = "correct-horse-battery"
ACCESS = Access("10.0.0.7", 2222, "ops", PASSWORD)
JOIN = "kubeadm join 10.0.0.7:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:" + "0a" * 32
KEY = "bXVuZ2VrZXkx" * 8


class Hosts:
    """Plays every host: scripts end as `acts` says, else well; `ran` is (host, run) of each look."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.scripts: list[Script] = []
        self.acts: list[Callable[[], Progress]] = []
        self.installed = ""

    def at(self, access: Access, *, prefix: str = "") -> Any:
        return _Host(self, access)


class _Host:
    def __init__(self, all_of_them: Hosts, access: Access) -> None:
        self._all, self.label = all_of_them, access.label

    def step(self, run: str, script: Script) -> Progress:
        self._all.ran.append((self.label, run))
        self._all.scripts.append(script)
        if self._all.acts:
            return self._all.acts.pop(0)()
        return Progress(0, "well", {"host_name": "alpha", "cores": "8", "memory_mb": "100", "user": "ops", "nodes": "",
                                    "members": "", "version": "22.05"})  # fmt: skip

    def asked(self, script: Script, what: str) -> str:
        if what == "what is there":
            return f"slurmd_port=7001\n\n::\n{self._all.installed}"
        return KEY if "munge" in what else ""

    def forget(self, run: str) -> None:
        self._all.ran.append((self.label, f"forget {run}"))


@pytest.fixture
def stepped(tmp_state: Path, monkeypatch: pytest.MonkeyPatch, manual_clock: ManualClock) -> Iterator[ManualClock]:
    monkeypatch.setattr(clock, "now", manual_clock.now)
    found = settings_module.load({"state": str(tmp_state)}, environ={"HOME": str(tmp_state)})
    opened = db.open_database(f"sqlite:///{tmp_state}/x.db", synchronous="OFF")
    migrations.migrate(opened)
    executor.configure(found)
    yield manual_clock
    opened.close()


@pytest.fixture
def hosts(stepped: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    played = Hosts()
    monkeypatch.setattr(ops, "host", played.at)
    return played


def go(clock_: ManualClock, number: int, *, most: int = 60) -> dict[str, Any]:
    """Work until it has ended."""
    for _ in range(most):
        operations.work("w")
        found = operations.one(number)
        if found["state"] in ("succeeded", "failed", "cancelled"):
            return found
        clock_.advance(10)
    return operations.one(number)


def begun(**more: Any) -> int:
    given: dict[str, Any] = {"kind": "slurm", "role": "master", "actor": "ada", "options": {"node_name": "n0"}}
    number: int = executor.new_cluster(ACCESS, **{**given, **more})
    return number


# installing


def test_steps_are_recorded_with_host_and_what_it_said(hosts: Hosts, stepped: ManualClock) -> None:
    number = begun()
    assert executor.wait(number, 0)[:2] == (False, False)
    found = go(stepped, number)
    assert found["state"] == "succeeded" and found["kind"] == "hosts.new_cluster"
    assert found["steps"][0]["detail"] == "10.0.0.7:2222: well"
    done, ok, told, error = executor.wait(number, 0)
    assert (done, ok, error) == (True, True, "")
    assert told == {"kind": "slurm", "host": "10.0.0.7:2222", "role": "master", "node_name": "n0", "address": "10.0.0.7",
                    "cores": "8", "memory_mb": "100", "version": "22.05", "slurm_conf": "/etc/slurm/slurm.conf"}  # fmt: skip
    notes = [event.data for event in events.of([("operation", number)]) if event.kind == "operation.step"]
    assert any("10.0.0.7:2222: well" in note for note in map(str, notes))
    assert hosts.ran[-1][1].startswith("forget ")


def test_nothing_secret_is_written_down(hosts: Hosts, stepped: ManualClock, tmp_state: Path) -> None:
    number = begun()
    go(stepped, number)
    result = executor.result(number)
    assert result["join_command"].startswith("slurm join 10.0.0.7:6817 --token sealed:")
    worker: int = executor.new_worker(Access("10.0.0.8", password=PASSWORD), kind="slurm", join_command=result["join_command"],
                                      actor="ada", options={"node_name": "n1"})
    go(stepped, worker)
    row = store.get(number)
    assert row is not None and PASSWORD not in row.request and json.loads(row.request)["host"] == "10.0.0.7:2222"
    kept = b"".join(path.read_bytes() for path in tmp_state.rglob("*") if path.is_file() and path.name != "secret.key")
    for secret in (PASSWORD, KEY, slurm.parse_join(result["join_command"]).token):
        assert secret.encode() not in kept


def test_a_worker_is_told_to_its_controller(hosts: Hosts, stepped: ManualClock) -> None:
    made = begun()
    go(stepped, made)
    hosts.ran.clear()
    hosts.scripts.clear()
    worker: int = executor.new_worker(Access("10.0.0.8", password=PASSWORD), kind="slurm",
                                      join_command=executor.result(made)["join_command"], actor="ada")
    assert go(stepped, worker)["state"] == "succeeded"
    places = {script.text[:40]: host for (host, _), script in zip(hosts.ran, hosts.scripts, strict=False)}
    assert set(places.values()) == {"10.0.0.8", "10.0.0.7:2222"}
    line = next(script.values["node_line"] for script in hosts.scripts if "node_line" in script.values)
    assert line.startswith("NodeName=alpha ") and "Port=7001" in line  # the host's own option counts


def test_a_host_that_is_away_is_tried_again_and_again(hosts: Hosts, stepped: ManualClock) -> None:
    number = begun()

    def away() -> Progress:
        raise DriverError("10.0.0.7:2222: no answer within 10 s", code=ENDPOINT, transient=True)

    hosts.acts = [away] * 3
    assert go(stepped, number)["state"] == "succeeded"
    number = begun()
    hosts.acts = [away] * 99
    found = go(stepped, number)
    assert found["state"] == "failed" and found["error"] == "10.0.0.7:2222: no answer within 10 s"
    assert executor.wait(number, 0)[3] == found["error"]


def test_what_will_not_go_well_ends_it_at_once(hosts: Hosts, stepped: ManualClock) -> None:
    number = begun()

    def refused() -> Progress:
        raise DriverError("10.0.0.7:2222: user ops is not let in with the password", code=AUTH)

    hosts.acts = [refused]
    operations.work("w")
    stepped.advance(5)
    operations.work("w")
    assert operations.one(number)["error"].endswith("is not let in with the password")
    number = begun()
    hosts.acts = [lambda: Progress(1, "port 6817 is taken on this host")]
    assert go(stepped, number)["error"] == "10.0.0.7:2222: look at the host: port 6817 is taken on this host"


def test_a_script_that_may_go_well_later(hosts: Hosts, stepped: ManualClock) -> None:
    number = begun()
    hosts.acts = [lambda: Progress(75, "apt is busy")]
    assert go(stepped, number)["state"] == "succeeded"
    first, second = [run for _, run in hosts.ran][:2]
    assert first != second and first.rpartition("-")[0] == second.rpartition("-")[0]  # another try is another run
    number = begun()
    hosts.acts = [lambda: Progress(75, "apt is busy")] * 20
    assert go(stepped, number)["error"] == "10.0.0.7:2222: look at the host: apt is busy"


def test_it_waits_for_what_runs_and_asks_under_the_same_name(hosts: Hosts, stepped: ManualClock) -> None:
    number = begun()
    hosts.acts = [lambda: Progress(None, "unpacking"), lambda: Progress(None, "unpacking more")]
    for _ in range(2):
        operations.work("w")
        stepped.advance(2)
    assert operations.one(number)["steps"][0]["detail"] == "10.0.0.7:2222: unpacking more"
    go(stepped, number)
    names = [run for _, run in hosts.ran]
    assert names[0] == names[1] == names[2]


def test_another_process_goes_on_where_the_first_one_died(hosts: Hosts, stepped: ManualClock) -> None:
    class Dies(BaseException):
        pass

    def die() -> Progress:
        raise Dies

    number = begun()
    hosts.acts = [lambda: Progress(0, "well", {"host_name": "alpha", "user": "ops"}), die]
    with pytest.raises(Dies):
        go(stepped, number)
    ran = list(hosts.ran)
    stepped.advance(operations.LEASE_S + 1)
    assert go(stepped, number)["state"] == "succeeded"
    assert hosts.ran[len(ran)] == ran[-1]  # the run that was cut short, under its name; none before it
    assert ran[0] not in hosts.ran[1:]


def test_taking_apart_follows_what_is_there(hosts: Hosts, stepped: ManualClock) -> None:
    hosts.installed = "kind=slurm\nrole=worker\ncluster=demo\nprefix=/srv/slurm\n"
    number = executor.take_apart(ACCESS, kind="slurm", actor="ada")
    assert go(stepped, number)["state"] == "succeeded"
    assert {script.values["prefix"] for script in hosts.scripts} == {"/srv/slurm"}
    assert executor.wait(number, 0)[2]["role"] == "worker"
    number = executor.take_apart(ACCESS, kind="kubernetes", actor="ada")
    assert "belongs to a slurm cluster" in go(stepped, number)["error"]


@pytest.mark.parametrize(("change", "field"), [
    ({"kind": "swarm"}, "cluster_type"), ({"options": {"colour": 1}}, "options.colour"),
    ({"options": {"prefix": "x"}}, "options.prefix"),
])
def test_what_cannot_be_asked_for(hosts: Hosts, change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        begun(**change)
    assert caught.value.errors[0].field == field and operations.page() == []


@pytest.mark.parametrize("join", ["", "slurm join a:1 --token nonsense", "slurm join a:1 --token sealed:1:AAAA"])
def test_a_join_command_of_somebody_else(hosts: Hosts, join: str) -> None:
    with pytest.raises(Invalid) as caught:
        executor.new_worker(ACCESS, kind="slurm", join_command=join)
    assert caught.value.errors[0].field == "join_command"


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_a_dry_run_shows_all_commands_and_does_nothing(hosts: Hosts, kind: str) -> None:
    for told in (executor.new_cluster(ACCESS, kind=kind, options={"dry_run": True}),
                 executor.take_apart(ACCESS, kind=kind, options={"dry_run": True})):
        assert told["dry_run"] and all({"step", "commands"} == set(one) for one in told["steps"])
    worker = executor.new_worker(ACCESS, kind="kubernetes", join_command=JOIN, options={"dry_run": True})
    assert "kubeadm join --config" in json.dumps(worker)
    assert "abcdef.0123" not in json.dumps(worker) and PASSWORD not in json.dumps(worker)
    assert operations.page() == [] and hosts.ran == []


def test_what_was_given_is_forgotten_where_it_is_kept_elsewhere(hosts: Hosts, stepped: ManualClock) -> None:
    number: int = executor.new_cluster(ACCESS, kind="slurm", actor="ada", org="acme")
    assert operations.one(number)["request"]["org"] == "acme"
    with pytest.raises(Conflict):
        centre_calls.forget(number)
    go(stepped, number)
    assert "join_command" in executor.result(number)
    centre_calls.Local(ops.settings_now()).call(centre_calls.FORGET, {"id": number})
    assert "join_command" not in executor.result(number) and executor.wait(number, 0)[:2] == (True, True)


def test_results_of_what_is_no_installation(stepped: ManualClock) -> None:
    with pytest.raises(NotFound):
        executor.wait(77, 0)
    operations.register("other", [("a", lambda told: None)])
    with pytest.raises(NotFound):
        executor.result(operations.begin("other", {}))


# clusters


@pytest.fixture
def kube(stepped: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    import time

    monkeypatch.setattr(clock, "now", time.time)
    with KubeApi() as made:
        made.add_node("n1", cores=8, memory_mb=16_384, labels={"zone": "a"})
        made.add_node("n2", cores=4, memory_mb=8192)
        yield made


def pod(name: str, *, node: str = "n1", **more: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    return {"metadata": {"name": name, "namespace": "default", **more.pop("metadata", {})},
            "spec": {"nodeName": node, "containers": [container], **more}}


def make_pod(kube: KubeApi, name: str, **more: Any) -> None:
    from cloudsched.testing.kubeapi import kinds

    kube.api.create(kinds.of("Pod"), "default", pod(name, **more))


def test_rows_of_a_kubeconfig(kube: KubeApi) -> None:
    where = Where(kubeconfig=kube.kubeconfig())
    make_pod(kube, "web")
    nodes = executor.nodes(where)
    assert [row["node_name"] for row in nodes] == ["n1", "n2"]
    assert nodes[0]["node_status"] == "Ready" and nodes[0]["node_role"] == "<none>" and nodes[0]["node_externalip"] == "<none>"
    assert [row["pod_name"] for row in executor.pods(where)] == ["web"]
    free = {one.name: one for one in executor.free_nodes(where)}
    assert free["n1"].cpu_m == 7500 and free["n1"].memory_mi == 15_360 and free["n2"].cpu_m == 4000
    assert free["n1"].labels["zone"] == "a" and free["n1"].ready and free["n1"].schedulable
    assert isinstance(free["n1"], NodeFree)


def test_switching_and_labels_of_a_kubeconfig(kube: KubeApi) -> None:
    where = Where(kubeconfig=kube.kubeconfig())
    assert executor.switch(where, "n1", state="cordon") == {"node_name": "n1", "state": "cordon", "drain": False}
    assert executor.nodes(where)[0]["node_status"] == "Ready,SchedulingDisabled" and not executor.free_nodes(where)[0].schedulable
    executor.switch(where, "n1", state="uncordon")
    assert executor.nodes(where)[0]["node_status"] == "Ready"
    assert executor.label(where, "n1", "gpu=a100")["gpu"] == "a100"
    assert "gpu" not in executor.label(where, "n1", "gpu=a100", "unlabel")
    assert "zone" not in executor.label(where, "n1", "zone-")
    for call in (lambda: executor.switch(where, "nowhere", state="cordon"), lambda: executor.label(where, "nowhere", "a=b"),
                 lambda: executor.delete_node(where, "nowhere")):
        with pytest.raises(NotFound):
            call()
    for field, call in {"state": lambda: executor.switch(where, "n1", state="stop"),
                        "label": lambda: executor.label(where, "n1", "a b"),
                        "drain": lambda: executor.switch(where, "n1", state="uncordon", drain=True),
                        "node_name": lambda: executor.switch(where, "../secrets", state="cordon")}.items():  # fmt: skip
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.errors[0].field == field


def test_a_node_is_emptied_before_it_goes(kube: KubeApi) -> None:
    where = Where(kubeconfig=kube.kubeconfig())
    make_pod(kube, "alone")
    with pytest.raises(Conflict, match="default/alone"):
        executor.delete_node(where, "n1")
    with pytest.raises(Conflict, match="no owner"):  # nobody would make it again: not without force
        executor.switch(where, "n1", state="cordon", drain=True)
    assert executor.delete_node(where, "n1", force=True) == {"node_name": "n1", "force": True}
    assert [row["node_name"] for row in executor.nodes(where)] == ["n2"] and executor.pods(where) == []
    executor.delete_node(where, "n2")
    assert executor.nodes(where) == []


def test_where_from() -> None:
    assert executor.where_from({"host": "a", "password": "x", "port": "22", "cluster_type": "slurm"}).kind == "slurm"
    assert executor.where_from({"kubeconfig": "text", "host": "a"}).access is None
    assert "text" not in repr(executor.where_from({"kubeconfig": "text"}))
    with pytest.raises(Invalid) as caught:
        executor.where_from({})
    assert caught.value.errors[0].field == "host"


# rows


@pytest.mark.parametrize(("seconds", "shown"), [
    (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (200, "3m20s"), (599, "9m59s"), (600, "10m"),
    (17 * 60, "17m"), (10_799, "179m"), (10_800, "3h"), (10_860, "3h1m"), (5 * 3600 + 1800, "5h30m"), (28_799, "7h59m"),
    (28_800, "8h"), (61_200, "17h"), (172_799, "47h"), (172_800, "2d"), (3 * 86400, "3d"), (496_800, "5d18h"),
    (691_199, "7d23h"), (691_200, "8d"), (40 * 86400, "40d"), (63_071_999, "729d"), (63_072_000, "2y"), (63_158_400, "2y1d"),
    (770 * 86400, "2y40d"), (252_288_000, "8y"), (283_824_000, "9y"),
])
def test_ages_are_those_of_kubectl(seconds: float, shown: str) -> None:
    assert executor_rows.age_text(seconds) == shown


def test_the_rows_of_the_contract() -> None:
    """The examples of get_cluster_nodes and get_cluster_pods."""
    now = clock.now()
    node = {"metadata": {"name": "k8s-master", "labels": {"node-role.kubernetes.io/control-plane": ""},
                         "creationTimestamp": clock.rfc3339(now - (5 * 86400 + 18 * 3600 + 60))},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "InternalIP", "address": "192.168.0.3"}],
                       "nodeInfo": {"kubeletVersion": "v1.28.2", "osImage": "Ubuntu 22.04.1 LTS",
                                    "kernelVersion": "5.15.0-91-generic", "containerRuntimeVersion": "containerd://1.7.24"}}}
    assert executor_rows.node_row(node) == {
        "node_name": "k8s-master", "node_status": "Ready", "node_role": "control-plane", "node_age": "5d18h",
        "node_version": "v1.28.2", "node_internalip": "192.168.0.3", "node_externalip": "<none>",
        "node_osversion": "Ubuntu 22.04.1 LTS", "node_kernelversion": "5.15.0-91-generic",
        "node_containeruntime": "containerd://1.7.24"}
    one = {"metadata": {"name": "mysql-deployment-548dbbfc8f-dxltl", "namespace": "my-namespace",
                        "creationTimestamp": clock.rfc3339(now - 17 * 3600 - 60)},
           "spec": {"nodeName": "k8s-worker-20250408132243", "containers": [{}]},
           "status": {"phase": "Pending", "podIP": "10.244.5.3", "containerStatuses": [
               {"ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}
    assert executor_rows.pod_row(one) == {
        "pod_namespace": "my-namespace", "pod_name": "mysql-deployment-548dbbfc8f-dxltl", "pod_ready": "0/1",
        "pod_running": "ImagePullBackOff", "pod_restart": "0", "pod_age": "17h", "pod_ip": "10.244.5.3",
        "pod_node": "k8s-worker-20250408132243", "pod_nominated_node": "<none>", "pod_readiness_gates": "<none>"}


@pytest.mark.parametrize(("status", "word"), [
    ({"phase": "Running"}, "Running"), ({"phase": "Succeeded"}, "Completed"), ({}, "Pending"),
    ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoopBackOff"),
    ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]}, "OOMKilled"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}, {}]}, "Init:0/2"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}},
                                                    {"state": {"waiting": {"reason": "ErrImagePull"}}}]}, "Init:ErrImagePull"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 2}}}]}, "Init:ExitCode:2"),
    ({"phase": "Pending"}, "Pending"),
    ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}, "ImagePullBackOff"),
    ({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
    ({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
    ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}, "Completed"),
    ({"phase": "Running", "containerStatuses": [{"ready": True, "state": {"running": {}}},
                                                {"state": {"terminated": {"reason": "Completed"}}}]}, "Running"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]},
     "Init:1/2"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]},
     "Init:Error"),
    ({"phase": "Pending", "initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
     "Init:CrashLoopBackOff"),
])
def test_the_word_for_a_pod(status: dict[str, Any], word: str) -> None:
    assert executor_rows.pod_word({"metadata": {}, "status": status}) == word
    assert executor_rows.pod_word({"metadata": {"deletionTimestamp": "x"}, "status": status}) == "Terminating"


@pytest.mark.parametrize(("first", "word"), [
    ({"started": True, "state": {"running": {}}}, "Running"), ({"started": False, "state": {"running": {}}}, "Init:0/1"),
    ({"started": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}, "Init:CrashLoopBackOff")])
def test_an_init_container_that_stays_holds_nothing_up_once_it_runs(first: dict[str, Any], word: str) -> None:
    status = {"phase": "Running" if word == "Running" else "Pending", "initContainerStatuses": [{"name": "proxy", **first}],
              "containerStatuses": [{"ready": word == "Running", "state": {"running": {}}}]}
    pod = {"metadata": {}, "spec": {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}, "status": status}
    assert executor_rows.pod_word(pod) == word
    once = {**pod, "spec": {"initContainers": [{"name": "proxy"}]}}
    assert executor_rows.pod_word(once) == (word if word != "Running" else "Init:0/1")


def test_a_pod_on_a_lost_node_is_unknown() -> None:
    status = {"phase": "Running", "reason": "NodeLost"}
    assert executor_rows.pod_word({"metadata": {"deletionTimestamp": "x"}, "status": status}) == "Unknown"


def test_nodes_of_older_and_newer_slurm() -> None:
    old = {"name": "n1", "address": "10.0.0.1", "state": "idle", "state_flags": ["DRAIN"], "features": "fast,zone=a",
           "gres": "gpu:a100:4", "gres_used": "gpu:a100:1(IDX:0)", "cpus": 8, "alloc_cpus": 2, "real_memory": 1000,
           "alloc_memory": 300, "operating_system": "Linux 6.1.0-1 #1", "slurmd_version": "22.05.8"}
    new = {**old, "state": ["IDLE", "DRAIN"], "state_flags": None, "features": ["fast", "zone=a"],
           "slurmd_start_time": {"set": True, "infinite": False, "number": clock.now() - 60}, "version": "24.11"}
    for node in (old, new):
        row, free = executor_rows.slurm_node_row(node, controller="n1"), executor_rows.slurm_free(node)
        assert row["node_status"] == "Ready,SchedulingDisabled" and row["node_role"] == "control-plane"
        assert row["node_kernelversion"] == "6.1.0-1" and row["node_osversion"] == "Linux"
        assert (free.cpu_m, free.memory_mi, free.gpus, free.schedulable) == (6000, 700, {"": 3}, False)
        assert free.labels == {"fast": "", "zone": "a"}
