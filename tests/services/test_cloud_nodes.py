"""Are nodes for clusters launched, found, destroyed and cleaned up as asked, and kept while they are used?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cloudsched.domain.entities import Node
from cloudsched.drivers import base, registry
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.fake import FakeDriver
from cloudsched.drivers.frameworks import ClusterWanted
from cloudsched.drivers.kubernetes.frameworks import make as frameworks
from cloudsched.drivers.sizes import InstanceType
from cloudsched.engine.places import Places
from cloudsched.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from cloudsched.services import joining, pool_clouds
from cloudsched.services import nodes as node_services
from cloudsched.services.agent_rules import digest
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import cloud_nodes, cloud_offers
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import clouds, clusters, events, nodes, system
from cloudsched.store.db import current, write
from cloudsched.testing.kubeapi import KubeApi, Rule
from tests.fleet import Fleet

ANN = Caller("ann", "operator")
LARGE = {"nodeCount": 3, "instanceType": "m5.large", "region": "us-west-2"}


class Ec2(FakeDriver):
    """A fake cloud with instance types; `away` refuses to tell them."""

    capabilities = FakeDriver.capabilities | {base.TYPES}
    asked = 0
    away = False

    def types(self) -> list[InstanceType]:
        type(self).asked += 1
        if self.away:
            raise DriverError("the endpoint cannot be reached", code=base.ENDPOINT, transient=True)
        return [InstanceType("m5.large", 2, 8192), InstanceType("p3.2xlarge", 8, 61_440, gpus=1)]


@pytest.fixture(autouse=True)
def _ec2(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.factory("AmazonEC2")
    monkeypatch.setitem(registry._factories, "AmazonEC2", Ec2)
    monkeypatch.setattr(Ec2, "asked", 0)
    monkeypatch.setattr(Ec2, "away", False)
    monkeypatch.setattr(cloud_offers, "_failed_at", {})


class Lab:
    """A fleet with EC2 clouds."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.clock = fleet, fleet.clock
        self.set()

    def set(self, **keys: Any) -> None:
        self.fleet.set(**{f"dcluster.{key}": value for key, value in keys.items()})
        cloud_nodes.configure(self.fleet.settings)

    def cloud(self, name: str = "amazon", region: str = "us-west-2", **facts: Any) -> int:
        keys = {"access_key_id": "a", "secret_access_key": "b"}
        values = {"name": name, "kind": "AmazonEC2", "max_slots": 10, "enabled": 1, "options": json.dumps({"regions": [region]}),
                  "credentials": pool_clouds.seal(keys, self.fleet.settings), **facts}
        return write(lambda tx: clouds.insert(tx, values, at=self.clock.now()))

    def boot(self) -> list[Node]:
        """What the engine's workers and pollers do, in short: every node runs."""
        for node in nodes.live():
            if node.state == "requested":
                facts = {"state": "running", "running_at": self.clock.now(), "external_id": f"i-{node.id:017x}",
                         "hostname": f"ip-10-0-0-{node.id}"}
                write(lambda tx, number=node.id, facts=facts: nodes.update(tx, number, **facts))  # type: ignore[misc]
        return nodes.live()


@pytest.fixture
def lab(small: Fleet) -> Lab:
    return Lab(small)


@pytest.fixture
def labs(fleet: Fleet) -> Lab:
    """On both databases."""
    return Lab(fleet)


# launch


def test_launched_nodes_are_nodes_that_are_booted(labs: Lab) -> None:
    number = labs.cloud(options=json.dumps({"regions": ["us-west-2"], "images": {"dcluster": "ami-kube"}}))
    names = cloud_nodes.launch(LARGE, ANN)
    assert names == ["amazon-dcluster-1", "amazon-dcluster-2", "amazon-dcluster-3"]
    rows = nodes.live(cloud_id=number)
    assert [(one.name, one.state, one.goal) for one in rows] == [(name, "requested", "run") for name in names]
    first = rows[0]
    assert (first.cores, first.memory_mb, first.instance_type, first.image) == (2, 8192, "m5.large", "ami-kube")
    assert (first.user, first.vm_type, first.job_id, first.shape_id, first.slots) == ("", "", None, None, 1)
    view = node_services.page(cloud="amazon")
    assert len(view) == 3
    [event] = events.since(0, subject_kind="node", subject_id=first.id)
    assert (event.kind, event.actor) == ("node.request", "ann")
    assert json.loads(event.data)["asked_by"] == "ann"
    assert cloud_nodes.asked_by(first.id) == "ann"
    assert cloud_nodes.launch({**LARGE, "nodeCount": "1"}, ANN) == ["amazon-dcluster-4"]


def test_anybodys_jobs_may_run_there(lab: Lab) -> None:
    lab.cloud()
    [name] = cloud_nodes.launch({**LARGE, "nodeCount": 1}, ANN)
    body = {"token": "", "instance": "one", "profile": {"cores": 2, "memory_mb": 8192, "kinds": ["echo", "command"]}}
    body["token"] = Places(lab.fleet.settings).token(name)
    node = nodes.by_name(name)
    assert node is not None
    write(lambda tx: nodes.update(tx, node.id, token_hash=digest(str(body["token"])), state="running"))
    assert joining.join(json.dumps(body).encode(), "127.0.0.1")["node_id"] == node.id
    found = nodes.get(node.id)
    assert found is not None and (found.user, found.vm_type, found.keep_alive_s) == ("", "", cloud_nodes.NEVER_S)


@pytest.mark.parametrize(("fields", "named"), [
    ({}, ["nodeCount", "instanceType"]), ({**LARGE, "nodeCount": 0}, ["nodeCount"]), ({**LARGE, "nodeCount": -1}, ["nodeCount"]),
    ({**LARGE, "nodeCount": 101}, ["nodeCount"]), ({**LARGE, "nodeCount": True}, ["nodeCount"]),
    ({**LARGE, "nodeCount": 1.5}, ["nodeCount"]), ({**LARGE, "nodeCount": "three"}, ["nodeCount"]),
    ({**LARGE, "instanceType": "../x"}, ["instanceType"]), ({**LARGE, "instanceType": "x1.huge"}, ["instanceType"]),
    ({**LARGE, "instanceType": 5}, ["instanceType"]), ({**LARGE, "region": ["a"]}, ["region"]),
    ({"nodeCount": "x", "instanceType": "", "region": "a b"}, ["nodeCount", "instanceType", "region"])])
def test_wrong_fields_of_a_launch(lab: Lab, fields: dict[str, Any], named: list[str]) -> None:
    lab.cloud()
    with pytest.raises(Invalid) as caught:
        cloud_nodes.launch(fields, ANN)
    assert [one.field for one in caught.value.errors] == named
    assert all(one.allowed for one in caught.value.errors)
    assert nodes.live() == []


def test_what_is_missing_is_told(lab: Lab) -> None:
    def refused(**more: Any) -> str:
        with pytest.raises(Unavailable) as caught:
            cloud_nodes.launch({**LARGE, **more}, ANN)
        return caught.value.message

    assert "dcluster.nodes_cloud" in refused() and "us-west-2" in refused()
    lab.cloud("east", "us-east-1")
    assert "no EC2 cloud of the region us-west-2" in refused()
    lab.cloud("west", enabled=0)
    assert "west is switched off" in refused()
    lab.cloud("west2")
    assert "several clouds would do (west, west2)" in refused()
    lab.set(nodes_cloud="nowhere")
    assert "dcluster.nodes_cloud" in refused() and "none of that name" in refused()
    lab.cloud("poor", credentials="")
    lab.set(nodes_cloud="poor")
    assert "poor has no credentials" in refused() and "access_key_id" in refused()
    lab.set(nodes_cloud="west2")
    assert cloud_nodes.launch(LARGE, ANN)[0] == "west2-dcluster-1"
    with pytest.raises(Invalid, match="region"):
        cloud_nodes.launch({**LARGE, "region": "us-east-1"}, ANN)
    assert cloud_nodes.launch({"nodeCount": 1, "instanceType": "m5.large"}, ANN)


def test_a_server_that_lists_no_types(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.cloud()
    monkeypatch.setattr(Ec2, "types", lambda self: [])
    cloud_nodes.launch({**LARGE, "nodeCount": 1, "instanceType": "m1.xlarge"}, ANN)
    assert [(node.instance_type, node.cores, node.memory_mb) for node in nodes.live()] == [("m1.xlarge", 1, 0)]


def test_who_may_not(lab: Lab) -> None:
    for act in (lambda: cloud_nodes.launch(LARGE, Caller("eve", "submitter")),
                lambda: cloud_nodes.destroy({"nodeIds": ["1"]}, Caller("eve", "submitter")),
                lambda: cloud_nodes.clean_up(Caller("eve")), lambda: cloud_nodes.refresh_inventory(Caller("eve"))):
        with pytest.raises(Forbidden):
            act()


def test_a_cloud_without_room(lab: Lab) -> None:
    lab.cloud(max_slots=4, memory_mb=17_000)
    with pytest.raises(Conflict, match="room for 2 more"):
        cloud_nodes.launch(LARGE, ANN)
    assert nodes.live() == []
    cloud_nodes.launch({**LARGE, "nodeCount": 2}, ANN)
    with pytest.raises(Conflict, match="room for 0 more"):
        cloud_nodes.launch({**LARGE, "nodeCount": 1}, ANN)


def test_launches_at_once_have_names_of_their_own(labs: Lab) -> None:
    labs.cloud(max_slots=100)
    cloud_nodes.instance_types("us-west-2")
    made: list[str] = []

    def launch() -> None:
        made.extend(cloud_nodes.launch(LARGE, ANN))
        current().close_thread()

    threads = [threading.Thread(target=launch) for _ in range(5)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert sorted(made, key=lambda name: int(name.rsplit("-", 1)[1])) == [f"amazon-dcluster-{n}" for n in range(1, 16)]
    assert all(cloud_nodes.asked_by(node.id) == "ann" for node in nodes.live())


# destroy


def test_nodes_go_by_any_of_their_ids(lab: Lab) -> None:
    lab.cloud()
    cloud_nodes.launch({**LARGE, "nodeCount": 4}, ANN)
    one, two, three, four = lab.boot()
    ids = [one.external_id, two.name, str(three.id), one.name]
    assert cloud_nodes.destroy({"nodeIds": ids, "region": "us-west-2"}, ANN) == [one.name, two.name, three.name]
    states = {node.name: (node.state, node.goal) for node in nodes.live()}
    assert states == {**dict.fromkeys((one.name, two.name, three.name), ("stopping", "gone")), four.name: ("running", "run")}
    assert cloud_nodes.destroy({"nodeIds": [one.name]}, ANN) == [one.name]  # again is no error


def test_all_or_none_are_destroyed(lab: Lab) -> None:
    lab.cloud()
    lab.cloud("east", "us-east-1")
    cloud_nodes.launch(LARGE, ANN)
    [first, *_] = lab.boot()
    with pytest.raises(NotFound, match="there is no node i-1, 999") as caught:
        cloud_nodes.destroy({"nodeIds": [first.external_id, "i-1", 999]}, ANN)
    assert caught.value.details == {"unknown": ["i-1", "999"]}
    with pytest.raises(NotFound, match="in us-east-1"):
        cloud_nodes.destroy({"nodeIds": [first.external_id], "region": "us-east-1"}, ANN)
    assert {node.goal for node in nodes.live()} == {"run"}


def test_nodes_of_other_kinds_of_clouds_are_not_theirs(lab: Lab) -> None:
    lab.cloud("plain", kind="Fake")
    cloud = clouds.by_name("plain")
    assert cloud is not None
    write(lambda tx: nodes.insert(tx, {"name": "other", "cloud_id": cloud.id, "state": "running", "goal": "run"}, at=1.0))
    with pytest.raises(NotFound):
        cloud_nodes.destroy({"nodeIds": ["other"]}, ANN)


@pytest.mark.parametrize(("fields", "named"), [
    ({}, ["nodeIds"]), ({"nodeIds": []}, ["nodeIds"]), ({"nodeIds": {"a": 1}}, ["nodeIds"]),
    ({"nodeIds": ["i-1", None]}, ["nodeIds[1]"]), ({"nodeIds": ["a\0b"]}, ["nodeIds[0]"]), ({"nodeIds": [""]}, ["nodeIds[0]"]),
    ({"nodeIds": ["x"], "region": "!"}, ["region"])])
def test_wrong_fields_of_a_destroy(lab: Lab, fields: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        cloud_nodes.destroy(fields, ANN)
    assert [one.field for one in caught.value.errors] == named


# what can be had


def test_instance_types_are_asked_once_a_day(lab: Lab) -> None:
    lab.cloud()
    assert cloud_nodes.instance_types("us-west-2") == ["m5.large", "p3.2xlarge"]
    cloud_nodes.instance_types()
    cloud_nodes.launch(LARGE, ANN)
    assert Ec2.asked == 1
    lab.clock.advance(86_401)
    cloud_nodes.instance_types()
    assert Ec2.asked == 2


def test_old_instance_types_do_when_the_place_is_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.cloud()
    monkeypatch.setattr(Ec2, "away", True)
    with pytest.raises(Unavailable, match="amazon cannot be had"):
        cloud_nodes.instance_types()
    monkeypatch.setattr(Ec2, "away", False)
    cloud_nodes.instance_types()
    monkeypatch.setattr(Ec2, "away", True)
    lab.clock.advance(100_000)
    assert cloud_nodes.instance_types() == ["m5.large", "p3.2xlarge"]
    found = cloud_offers.types_of(cloud_offers.cloud_of(""))
    assert (found.stale, round(found.age_s), Ec2.asked) == (True, 100_000, 3)
    monkeypatch.setattr(Ec2, "away", False)
    lab.clock.advance(61)
    assert cloud_offers.types_of(cloud_offers.cloud_of("")).stale is False


def test_another_configuration_has_other_types(lab: Lab) -> None:
    number = lab.cloud()
    cloud_nodes.instance_types()
    write(lambda tx: clouds.update(tx, number, at=1.0, event="cloud.change",
                                   options=json.dumps({"regions": ["us-west-2"], "instance_types": ["m5.large"]})))
    cloud_nodes.instance_types()
    assert Ec2.asked == 2


def test_a_region_that_is_none(lab: Lab) -> None:
    for act in (lambda: cloud_nodes.instance_types("a b"), lambda: cloud_nodes.refresh_inventory(ANN, "../x")):
        with pytest.raises(Invalid, match="region"):
            act()


# clean-up


@pytest.fixture
def three(lab: Lab) -> list[Node]:
    lab.set(nodes_idle_limit_s=3600)
    lab.cloud()
    cloud_nodes.launch(LARGE, ANN)
    return lab.boot()


def goals() -> dict[str, str]:
    return {node.name: node.goal for node in nodes.live()}


def test_idle_nodes_go_and_no_others(lab: Lab, three: list[Node]) -> None:
    one, two, last = three
    cloud = clouds.by_name("amazon")
    assert cloud is not None
    write(lambda tx: nodes.insert(tx, {"name": "of-the-queue", "cloud_id": cloud.id, "state": "running", "goal": "run"}, at=1.0))
    spec = {"key": "k", "kind": "spark", "origin": "dcluster", "state": "running"}
    cluster = write(lambda tx: clusters.insert(tx, spec, at=1.0))
    write(lambda tx: clusters.add_node(tx, cluster, two.id, role="worker", name="w", at=1.0))
    lab.clock.advance(3000)
    kept = cloud_nodes.clean_up(ANN).kept
    assert kept[one.name] == "idle for 3000 s of 3600 s"
    assert kept[two.name] == "idle for 0 s of 3600 s"
    write(lambda tx: nodes.update(tx, last.id, idle_since=lab.clock.now()))  # it ran a job until now
    lab.clock.advance(700)
    done = cloud_nodes.clean_up(ANN)
    assert done.destroyed == (one.name,)
    assert goals() == {one.name: "gone", two.name: "run", last.name: "run", "of-the-queue": "run"}
    assert "no cluster has used it" in (nodes.get(one.id) or one).reason
    write(lambda tx: clusters.remove_node(tx, cluster, two.id, at=1.0))
    lab.clock.advance(3601)
    assert cloud_nodes.clean_up(ANN).destroyed == (two.name, last.name)
    for node in nodes.live():
        write(lambda tx, number=node.id: nodes.update(tx, number, state="gone"))  # type: ignore[misc]
    assert cloud_nodes.clean_up(ANN) == cloud_nodes.Cleaned()
    assert json.loads(system.setting("cloud_nodes"))["nodes"] == {}


def test_nodes_that_are_not_there_yet_are_not_idle(lab: Lab) -> None:
    lab.cloud()
    cloud_nodes.launch(LARGE, ANN)
    lab.clock.advance(100_000)
    assert cloud_nodes.clean_up(ANN) == cloud_nodes.Cleaned()
    assert set(goals().values()) == {"run"}


@pytest.fixture
def kube(lab: Lab, three: list[Node]) -> Iterator[KubeApi]:
    """The launched nodes have joined a Kubernetes cluster, by their host names; clusters run there."""
    with KubeApi() as made:
        for node in three:
            made.add_node(node.hostname)
        values = {"name": "k8s", "kind": "Kubernetes", "max_slots": 1, "enabled": 1, "options": json.dumps({"timeout_s": 5}),
                  "credentials": pool_clouds.seal({"kubeconfig": made.kubeconfig()}, lab.fleet.settings)}
        write(lambda tx: clouds.insert(tx, values, at=1.0))
        lab.set(place="kubernetes:k8s", nodes_idle_limit_s=3600, nodes_drain_s=2)
        yield made


def hosts(kube: KubeApi) -> dict[str, bool]:
    """Kubernetes nodes, and whether they take no pods."""
    return {one["metadata"]["name"]: bool(one["spec"].get("unschedulable")) for one in kube.things("Node")}


def until(condition: Any, what: str) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError(what)


def spark(kube: KubeApi, cores_m: int = 100) -> str:
    """A Spark cluster with one worker, on one node; that node's name."""
    place = Place("k8s", "Kubernetes", {"timeout_s": 5}, credentials={"kubeconfig": kube.kubeconfig()})
    wanted = ClusterWanted("spark-1", "spark", 1, "t", 0, cores_m, 1024, cores_m, 512)
    frameworks("spark", place, Dcluster()).launch(wanted, {}, lambda handle: None)
    until(lambda: [one for one in kube.things("Pod") if one["spec"].get("nodeName")], "the master's pod is placed")
    return str(kube.things("Pod")[0]["spec"]["nodeName"])


def test_kubernetes_nodes_are_drained_first(lab: Lab, three: list[Node], kube: KubeApi) -> None:
    busy = spark(kube)
    lab.clock.advance(4000)
    done = cloud_nodes.clean_up(ANN)
    used = next(node for node in three if node.hostname == busy)
    assert done.kept == {used.name: "idle for 0 s of 3600 s"}
    assert sorted(done.destroyed) == sorted(node.name for node in three if node is not used)
    assert hosts(kube) == {busy: False}


def test_a_clean_up_ends_in_time(lab: Lab, three: list[Node], kube: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.clock.advance(4000)
    passed = iter((0.0, 1.0, 5.0, 6.0))
    monkeypatch.setattr(cloud_nodes, "time", SimpleNamespace(monotonic=lambda: next(passed)))
    done = cloud_nodes.clean_up(ANN)
    assert done.destroyed == (three[0].name,)
    assert all("next clean-up" in why for why in done.kept.values())
    assert {one for one, cordoned in hosts(kube).items() if not cordoned} == {node.hostname for node in three[1:]}


def test_a_node_that_cannot_be_drained_stays(lab: Lab, three: list[Node], kube: KubeApi) -> None:
    first = three[0]
    kube.api.create(next(one for one in kube.served() if one.kind == "Pod"), "default", {
        "metadata": {"name": "alone"}, "spec": {"nodeName": first.hostname, "containers": [{"name": "c", "image": "i:1"}]}})
    until(lambda: kube.things("Pod")[0]["status"].get("phase") == "Running", "the pod runs")
    lab.clock.advance(4000)
    done = cloud_nodes.clean_up(ANN)
    assert "cannot be drained: default/alone" in done.kept[first.name]
    assert hosts(kube) == {first.hostname: False}
    assert goals()[first.name] == "run"


def test_nodes_stay_while_nobody_can_say_who_uses_them(lab: Lab, three: list[Node], kube: KubeApi) -> None:
    lab.clock.advance(4000)
    kube.stop()
    done = cloud_nodes.clean_up(ANN)
    assert done.destroyed == () and set(done.kept) == {node.name for node in three}
    assert all("cannot be asked what it uses" in why for why in done.kept.values())
    kube.start()
    token = kube.add_user("blind", denied=[Rule(("list",), ("nodes",))])
    sealed = pool_clouds.seal({"kubeconfig": kube.kubeconfig(token=token)}, lab.fleet.settings)
    cloud = clouds.by_name("k8s")
    assert cloud is not None
    write(lambda tx: clouds.update(tx, cloud.id, at=1.0, event="cloud.change", credentials=sealed))
    assert cloud_nodes.clean_up(ANN).destroyed == ()
    lab.set(place="kubernetes:gone", nodes_idle_limit_s=3600)
    assert "no such cloud" in next(iter(cloud_nodes.clean_up(ANN).kept.values()))


# what instances say


def test_what_instances_say_is_kept(lab: Lab, three: list[Node]) -> None:
    node = three[0]
    cloud_nodes.log_instance(node.external_id, {"cpu": 3, "password": "geheim", "deep": [{"api_key": "x", "a": None}]}, "ann")
    cloud_nodes.log_instance("i-other", "a text", "bob")
    lab.clock.advance(1)
    cloud_nodes.log_instance(node.external_id, [1, 2], "bob")
    first, second = cloud_nodes.instance_log(node.external_id)
    assert (first["said"], first["actor"]) == ({"cpu": 3, "password": "***", "deep": [{"api_key": "***", "a": None}]}, "ann")
    assert second["said"] == [1, 2]
    assert cloud_nodes.instance_log(node.external_id, after=first["id"]) == [second]
    assert [one["said"] for one in cloud_nodes.instance_log("i-other")] == ["a text"]
    assert cloud_nodes.instance_log("i-never") == []
    [event] = events.since(0, kind="instance.log", limit=1)
    assert json.loads(event.data)["node"] == node.id


def test_numbers_of_instances_are_the_same_in_every_json_reader(lab: Lab) -> None:
    names = [f"i-{number:017x}" for number in range(50)]
    for name in names:
        cloud_nodes.log_instance(name, {}, "ann")
    numbers = {event.subject_id for event in events.since(0, kind="instance.log", limit=100)}
    assert len(numbers) == 50
    assert all(number is not None and 0 <= number < 2**53 for number in numbers)


@pytest.mark.parametrize(("instance", "said", "field"), [
    ("", {}, "instanceId"), ("x" * 256, {}, "instanceId"), ("a\nb", {}, "instanceId"), ("i-1", "x" * 70_000, "body")])
def test_wrong_sayings(lab: Lab, instance: str, said: Any, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        cloud_nodes.log_instance(instance, said, "ann")
    assert caught.value.errors[0].field == field
