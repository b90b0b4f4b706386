"""Are resource instances bought, changed, stopped and given back as promised: stock, rows, and objects in the cluster?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.domain import instances as domain
from cloudsched.domain.instances import InvalidInstance
from cloudsched.domain.stock import StockShort
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services.centre import executor_ops, instance_objects, instances, metering
from cloudsched.services.centre.instances import NotDone, Planned
from cloudsched.store import events
from cloudsched.store import instances as store
from cloudsched.store.db import read, write
from cloudsched.testing.kubeapi import Rule
from tests.fleet import Fleet
from tests.services import shop as shops
from tests.services.shop import ORG, PASSWORD, SEED, Shop

PAIRS = list(zip(domain.ENGINES, domain.PORT_MODES * 2, strict=True))


@pytest.fixture
def shop(small: Fleet) -> Iterator[Shop]:
    with shops.opened(small.settings) as made:
        yield made


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found


# -- buy -------------------------------------------------------------------------------------------------------


def test_an_instance_is_bought(shop: Shop) -> None:
    found = shop.add(source_outsideport="30063")
    assert (found.state, found.node_port, found.reason, found.user) == ("applied", 30063, "", "kyy")
    assert shop.used() == {("cpu", "STANDARD"): 1000, ("memory", "STANDARD"): 512, ("disk", "SYS"): 20, ("disk", "DATA"): 49}
    assert found.held == found.wanted.amounts()
    [controller] = shop.kube.things("StatefulSet")
    assert controller["metadata"]["name"] == found.controller == f"{found.key}-statefulset"
    assert controller["metadata"]["ownerReferences"][0]["kind"] == "Secret"
    [(began, ended, amounts, _)] = store.periods(found.key)
    assert (began, ended, json.loads(amounts)) == (clock.now(), None, [list(one) for one in found.held])
    assert {"instance.add", "instance.apply"} <= shop.kinds()
    shop.check_books()


def test_the_password_is_nowhere_in_the_clear(shop: Shop) -> None:
    found = shop.add()
    shop.change(found.key, source_authpasswd=PASSWORD + "2")
    rows = json.dumps([list(row) for table in ("instance", "instance_period", "event") for row in
                       read().all(f"SELECT * FROM {table}")], default=str)
    assert PASSWORD not in rows
    assert found.password.startswith("sealed:")


@pytest.mark.parametrize(("engine", "mode"), PAIRS)
def test_every_engine_comes_and_goes(shop: Shop, engine: str, mode: str) -> None:
    found = shop.add(source_podengine=engine, source_portmode=mode, source_restartpolicy=domain.ENGINES[engine][0])
    kind = "Pod" if engine == "Standalone" else engine
    assert found.controller in {one["metadata"]["name"] for one in shop.kube.things(kind)}
    assert bool(found.node_port) == (mode == "NodePort")  # one that the cluster chose is written down
    gone = shop.remove(found.key)
    assert {one["kind"] for one in gone} >= {kind, "Service", "Secret", "Namespace", "ServiceAccount"}
    assert shop.left() == []
    assert shop.used() == {}
    assert found.namespace not in {one["metadata"]["name"] for one in shop.kube.things("Namespace")}
    assert shop.row(found.key).state == "deleted"


def test_a_daemon_set_holds_stock_for_every_node_that_it_chooses(shop: Shop) -> None:
    assert shop.used() == {}
    found = shop.add(source_podengine="DaemonSet")
    assert found.wanted.source_replicasetnum == 2
    assert shop.used()["cpu", "STANDARD"] == 2000
    with pytest.raises(InvalidInstance, match="source_nodeselector"):
        shop.add(source_podengine="DaemonSet", source_nodeselector="no=where")


def test_a_daemon_set_that_comes_to_more_nodes_holds_more_stock(shop: Shop) -> None:
    found = shop.add(source_podengine="DaemonSet", source_cpurate="5")

    def nodes() -> int:
        return int(shop.kube.things("DaemonSet")[0].get("status", {}).get("desiredNumberScheduled", 0))

    until(lambda: nodes() == 2, "it is on both nodes")
    shop.kube.add_node("node-2", labels={"kyy-gpu": "false"})
    until(lambda: nodes() == 3, "it is on the third node")
    shop.tick()
    assert (shop.row(found.key).wanted.pods, shop.used()["cpu", "STANDARD"]) == (3, 15_000)
    assert [one[3] for one in store.periods(found.key)] == ["changed", ""]
    shop.kube.add_node("node-3", labels={"kyy-gpu": "false"})
    until(lambda: nodes() == 4, "it is on the fourth node")
    shop.tick()
    assert shop.used()["cpu", "STANDARD"] == 15_000
    assert "cpu STANDARD" in shop.row(found.key).reason
    shop.tick()
    assert len(events.since(0, kind="instance.over")) == 1
    shop.check_books()


def test_a_port_that_the_cluster_chose_stays(shop: Shop) -> None:
    found = shop.add()
    assert found.node_port in domain.NODE_PORTS
    assert shop.change(found.key, source_cpurate="2").node_port == found.node_port
    [service] = shop.kube.things("Service")
    assert service["spec"]["ports"][0]["nodePort"] == found.node_port


def test_without_a_kubeconfig_that_of_the_host_is_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Host:
        def asked(self, script: Any, what: str) -> str:
            assert "/etc/kubernetes/admin.conf" in script.text
            return shop.kube.kubeconfig()

    monkeypatch.setattr(executor_ops, "host", lambda access: Host())
    given = {**SEED, "source_authpasswd": PASSWORD, "podcd_name": "a-statefulset", "clusterid": "c", "orgid": "o", "host": "h",
             "port": "22", "user": "root", "psssword": "x"}
    assert instance_objects.yaml_apply_delete(given, shop.settings)["node_port"] == 30063
    assert instance_objects.yaml_apply_delete({**given, "action": "delete"}, shop.settings)["objects"]
    for bad in ({**given, "host": ""}, {**given, "limit_s": "1e9"}, {**given, "action": "explode"}, {**given, "podcd_name": ""},
                {**given, "namespace_name": "kube-system"}, {**given, "service_name": "Bad_Name"}):
        with pytest.raises(Invalid):
            instance_objects.yaml_apply_delete(bad, shop.settings)


def test_more_than_there_is_cannot_be_bought(shop: Shop) -> None:
    with pytest.raises(StockShort) as caught:
        shop.add(source_gpu="3", source_replicasetnum="2")
    assert (caught.value.type, caught.value.model, caught.value.stock, caught.value.asked) == ("gpu", "V100", 4, 6)
    assert instances.listed(cluster=shop.cluster)[0] == 0
    assert shop.left() == []


def test_a_spent_budget_refuses_and_stops(shop: Shop, small: Fleet) -> None:
    found = shop.add()
    metering.set_budget(ORG, amount="0.01", stop=True, actor="test")
    small.clock.advance(7200)
    with pytest.raises(metering.BudgetSpent):
        shop.add()
    shop.tick()
    assert metering.tick().stopped == 1
    stopped = shop.row(found.key)
    assert (stopped.state, stopped.stopped, stopped.reason) == ("stopped", 1, "budget")
    assert shop.used() == {("disk", "SYS"): 20, ("disk", "DATA"): 49}
    with pytest.raises(metering.BudgetSpent):
        shop.change(found.key)
    shop.check_books()


def test_a_node_port_is_taken_once(shop: Shop) -> None:
    first = shop.add(source_outsideport="30100")
    with pytest.raises(InvalidInstance) as caught:
        shop.add(source_outsideport="30100")
    assert [(one.field, one.sort) for one in caught.value.faults] == [("source_outsideport", "clash")]
    shop.remove(first.key)
    assert shop.add(source_outsideport="30100").state == "applied"


def test_a_node_port_of_the_cluster_is_found_before_anything_is_made(shop: Shop) -> None:
    from cloudsched.testing.kubeapi import kinds

    shop.kube.api.create(kinds.of("Service"), "default", {"metadata": {"name": "theirs"}, "spec": {
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30200}]}})
    with pytest.raises(NotDone, match="default/theirs") as caught:
        shop.add(source_outsideport="30200")
    assert caught.value.found.state == "failed"
    assert (shop.left(), shop.used()) == ([], {})


def test_a_node_port_that_is_taken_at_the_last_moment_is_named_too(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.services.centre import instance_objects
    from cloudsched.testing.kubeapi import kinds

    made, taken = instance_objects._made, []

    def rival(*args: Any) -> Any:
        if not taken:
            taken.append(shop.kube.api.create(kinds.of("Service"), "default", {"metadata": {"name": "theirs"}, "spec": {
                "type": "NodePort", "ports": [{"port": 80, "nodePort": 30300}]}}))
        return made(*args)

    monkeypatch.setattr(instance_objects, "_made", rival)
    with pytest.raises(NotDone, match="default/theirs"):
        shop.add(source_outsideport="30300")
    assert shop.used() == {}


def test_what_the_cluster_refuses_gives_the_stock_back(shop: Shop) -> None:
    token = shop.kube.add_user("clerk", denied=[Rule(("patch", "create"), ("statefulsets",))])
    cluster = shop.new_cluster("other", shop.kube.kubeconfig(token=token))
    _move_stock(shop, cluster)
    with pytest.raises(NotDone, match="statefulsets") as caught:
        instances.add({**SEED, "source_authpasswd": PASSWORD}, cluster_key=cluster, org=ORG, user="", actor="test",
                      settings=shop.settings)
    failed = caught.value.found
    assert (failed.state, failed.held, failed.sweep) == ("failed", [], 0)
    assert "statefulsets" in failed.reason
    assert shop.left() == []
    assert failed.namespace not in {one["metadata"]["name"] for one in shop.kube.things("Namespace")}
    assert store.periods(failed.key) == []
    shop.check_books()


def _move_stock(shop: Shop, cluster: str) -> None:
    from cloudsched.services.centre import parts

    for (kind, model), amount in shops.STOCK.items():
        parts.add(shop.centre.key, kind=kind, model=model, unit_price="1", stock=amount, cluster_key=cluster, add_stock=True,
                  actor="test")


def test_a_quota_of_the_cluster_is_told_and_nothing_is_left(shop: Shop) -> None:
    from cloudsched.testing.kubeapi import kinds

    first = shop.add()
    shop.kube.api.create(kinds.of("ResourceQuota"), first.namespace, {"metadata": {"name": "few"}, "spec": {"hard": {
        "services": "1"}}})
    with pytest.raises(NotDone, match="exceeded quota: few"):
        shop.add()
    assert {one.rpartition(" ")[2].partition("-")[0] for one in shop.left() if not one.startswith(("Pod", "Pers"))} == {first.key}
    shop.check_books()


def test_a_failed_one_can_be_started_again(shop: Shop) -> None:
    shop.kube.fail("server_error", method="PATCH", path="statefulsets", times=4)
    with pytest.raises(NotDone) as caught:
        shop.add()
    key = caught.value.found.key
    assert shop.change(key).state == "applied"
    shop.check_books()
    assert shop.used()["cpu", "STANDARD"] == 1000


def test_a_cluster_that_is_away_is_swept_when_it_is_back(shop: Shop, small: Fleet) -> None:
    shop.kube.fail("unreachable", path="/", times=10_000)
    with pytest.raises(NotDone) as caught:
        shop.add()
    failed = caught.value.found
    assert (failed.state, failed.sweep, shop.used()) == ("failed", instances.CLEAN_UP, {})
    shop.kube.heal()
    small.clock.advance(instances.LEASE_S + 1)
    assert shop.tick().resumed == 1
    assert shop.row(failed.key).sweep == 0
    assert shop.tick().resumed == 0


def test_the_api_server_may_restart_in_the_middle(shop: Shop) -> None:
    stop = threading.Event()

    def restart() -> None:
        while not stop.wait(0.02):
            shop.kube.restart()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        for number in range(3):
            try:
                shop.add(source_name=f"n{number}")
            except NotDone as error:
                assert error.found.state == "failed"
    finally:
        stop.set()
        thread.join()
    shop.check_books()
    for one in instances.listed(cluster=shop.cluster)[1]:
        shop.remove(one.key)
    assert (shop.left(), shop.used()) == ([], {})


def test_a_dry_run_checks_everything_and_does_nothing(shop: Shop) -> None:
    given = {**SEED, "source_authpasswd": PASSWORD}
    planned = instances.plan(given, cluster_key=shop.cluster, org=ORG, user="", actor="test", settings=shop.settings)
    assert f"{planned.found.key}-statefulset" in planned.yaml
    assert PASSWORD not in planned.yaml
    assert (shop.used(), shop.left(), instances.listed(cluster=shop.cluster)[0]) == ({}, [], 0)
    with pytest.raises(StockShort):
        instances.plan({**given, "source_cpurate": "17"}, cluster_key=shop.cluster, org=ORG, user="", actor="test",
                       settings=shop.settings)
    found = shop.add()
    changed = instances.change(found.key, {"source_cpurate": "2"}, scope=ORG, actor="test", settings=shop.settings, dry_run=True)
    assert isinstance(changed, Planned)
    assert 'cpu: "2"' in changed.yaml
    assert shop.row(found.key) == found


def test_only_kubernetes_clusters_that_are_ready_take_instances(shop: Shop) -> None:
    slurm = shop.new_cluster("batch", "", kind="slurm")
    for cluster, kind in ((slurm, Conflict), ("nowhere", NotFound)):
        with pytest.raises(kind):
            instances.add({**SEED, "source_authpasswd": PASSWORD}, cluster_key=cluster, org=ORG, user="", actor="test",
                          settings=shop.settings)


# -- change and stop -------------------------------------------------------------------------------------------


def test_stock_moves_by_the_difference(shop: Shop) -> None:
    found = shop.add(source_replicasetnum="2")
    before = shop.row(found.key)
    changed = shop.change(found.key, source_replicasetnum="1", source_memrate="2Gi")
    assert shop.used() == {("cpu", "STANDARD"): 1000, ("memory", "STANDARD"): 2048, ("disk", "SYS"): 20, ("disk", "DATA"): 49}
    assert changed.version > before.version
    [controller] = shop.kube.things("StatefulSet")
    assert controller["spec"]["replicas"] == 1
    [first, second] = store.periods(found.key)
    assert (first[3], second[1]) == ("changed", None)
    shop.check_books()


def test_a_new_password_replaces_the_pods(shop: Shop) -> None:
    found = shop.add()
    annotations = "spec", "template", "metadata", "annotations"

    def of_pods() -> dict[str, str]:
        value: Any = shop.kube.things("StatefulSet")[0]
        for name in annotations:
            value = value[name]
        return dict(value)

    before = of_pods()
    shop.change(found.key, source_selflabel="app:ubuntu4")
    assert of_pods() == before
    shop.change(found.key, source_authpasswd="another")
    assert of_pods() != before
    kept = shop.row(found.key).password
    assert shop.change(found.key, source_authpasswd=kept).password == kept  # what was read may be given back


def test_what_cannot_be_changed_in_place_is_made_anew(shop: Shop) -> None:
    job = shop.add(source_podengine="Job", source_restartpolicy="Never", source_storagelimits="0")
    before = shop.kube.things("Job")[0]["metadata"]["uid"]
    shop.change(job.key, pod_imagepath="docker.io/library/ubuntu:24.04")
    [after] = shop.kube.things("Job")
    assert after["metadata"]["uid"] != before
    changed = shop.change(job.key, source_podengine="Deployment", source_restartpolicy="Always", source_portmode="Ingress")
    assert changed.controller == f"{job.key}-deployment"
    assert (shop.kube.things("Job"), len(shop.kube.things("Ingress")), changed.node_port) == ([], 1, 0)
    shop.change(job.key, source_portmode="NodePort", source_outsideport="30300")
    assert shop.kube.things("Ingress") == []


def test_data_is_not_lost_by_a_change(shop: Shop) -> None:
    found = shop.add()
    for fields in ({"source_podengine": "Deployment"}, {"source_storagelimits": "48Gi"}, {"source_storagelimits": "0"}):
        with pytest.raises(InvalidInstance) as caught:
            shop.change(found.key, **fields)
        assert [one.sort for one in caught.value.faults] == ["fixed"]
    shop.change(found.key, source_storagelimits="60Gi")
    [claim] = shop.kube.things("PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "60Gi"
    assert shop.change(found.key, source_podengine="Deployment", force=True).engine == "Deployment"


def test_a_change_that_fails_leaves_the_instance_as_it_was(shop: Shop, small: Fleet) -> None:
    found = shop.add()
    used, small_pod = shop.used(), shop.row(found.key)
    shop.kube.fail("server_error", method="PATCH", path="statefulsets", times=8)
    with pytest.raises(NotDone) as caught:
        shop.change(found.key, source_cpurate="4", source_name="other")
    after = caught.value.found
    assert (after.state, after.spec, after.name, after.held) == ("applied", small_pod.spec, small_pod.name, small_pod.held)
    assert (shop.used(), after.sweep) == (used, instances.APPLY_AGAIN)
    shop.kube.heal()
    small.clock.advance(instances.LEASE_S + 1)
    shop.tick()
    assert shop.row(found.key).sweep == 0
    [controller] = shop.kube.things("StatefulSet")
    assert controller["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"
    shop.check_books()


def test_stopped_holds_its_disks_alone(shop: Shop) -> None:
    found = shop.add()
    stopped = shop.stop(found.key)
    assert (stopped.state, shop.used()) == ("stopped", {("disk", "SYS"): 20, ("disk", "DATA"): 49})
    assert shop.kube.things("StatefulSet")[0]["spec"]["replicas"] == 0
    assert len(shop.kube.things("PersistentVolumeClaim")) == 1
    shop.check_books()
    assert shop.stop(found.key).version == stopped.version
    started = shop.change(found.key)
    assert (started.state, shop.used()["cpu", "STANDARD"]) == ("applied", 1000)
    assert shop.kube.things("StatefulSet")[0]["spec"]["replicas"] == 1


def test_an_instance_of_others_is_not_there(shop: Shop) -> None:
    found = shop.add()
    with pytest.raises(NotFound):
        instances.remove(found.key, scope="others", actor="test", settings=shop.settings)
    with pytest.raises(NotFound):
        instances.change(found.key, {}, scope="others", actor="test", settings=shop.settings)
    assert instances.listed(cluster=shop.cluster, scope="others") == (0, [])


def test_one_change_at_a_time(shop: Shop) -> None:
    found = shop.add()
    write(lambda tx: store.move(tx, found, "change", at=clock.now(), actor="x", not_before=clock.now() + 100))
    for attempt in (lambda: shop.change(found.key), lambda: shop.stop(found.key), lambda: shop.remove(found.key)):
        with pytest.raises(Conflict, match="being changed"):
            attempt()


# -- give back -------------------------------------------------------------------------------------------------


def test_the_last_instance_takes_the_namespace_along(shop: Shop) -> None:
    first, second = shop.add(), shop.add()
    assert first.namespace == second.namespace
    assert "Namespace" not in {one["kind"] for one in shop.remove(first.key)}
    assert "Namespace" in {one["kind"] for one in shop.remove(second.key)}


def test_a_namespace_with_something_of_others_stays(shop: Shop) -> None:
    from cloudsched.testing.kubeapi import kinds

    found = shop.add()
    shop.kube.api.create(kinds.of("ConfigMap"), found.namespace, {"metadata": {"name": "theirs"}, "data": {}})
    assert "Namespace" not in {one["kind"] for one in shop.remove(found.key)}
    assert [one["metadata"]["name"] for one in shop.kube.things("ConfigMap", found.namespace)] == ["kube-root-ca.crt", "theirs"]


def test_an_instance_bought_while_the_namespace_goes_waits_for_it(shop: Shop) -> None:
    from cloudsched.testing.kubeapi import kinds

    found = shop.add()
    held = {"metadata": {"name": "held", "finalizers": ["example.com/slow"]}, "data": {}}
    shop.kube.api.create(kinds.of("ConfigMap"), found.namespace, held)
    shop.kube.api.delete(kinds.of("Namespace"), "", found.namespace)
    let_go = threading.Timer(0.3, lambda: shop.kube.api.patch(
        kinds.of("ConfigMap"), found.namespace, "held", {"metadata": {"finalizers": None}}, sort="merge"))
    let_go.start()
    second = shop.add()
    let_go.join()
    assert second.state == "applied"
    assert second.controller in {one["metadata"]["name"] for one in shop.kube.things("StatefulSet")}


def test_what_is_left_is_told_and_tried_again(shop: Shop, small: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.testing.kubeapi import kinds

    found = shop.add()
    monkeypatch.setattr(instances, "APPLY_LIMIT_S", 0.2)
    service = kinds.of("Service")
    shop.kube.api.patch(service, found.namespace, found.service, {"metadata": {"finalizers": ["example.com/lb"]}}, sort="merge")
    with pytest.raises(NotDone, match=r"example\.com/lb"):
        shop.remove(found.key)
    left = shop.row(found.key)
    assert (left.state, shop.used()["cpu", "STANDARD"]) == ("deleting", 1000)  # not given back while it is there
    assert store.periods(found.key)[0][1] is not None
    shop.kube.api.patch(service, found.namespace, found.service, {"metadata": {"finalizers": None}}, sort="merge")
    small.clock.advance(instances.RETRY_S + 1)
    assert shop.tick().resumed == 1
    assert (shop.row(found.key).state, shop.used(), shop.left()) == ("deleted", {}, [])


def test_with_the_cluster_its_instances_are_gone(shop: Shop) -> None:
    keys = [shop.add().key for _ in range(3)]
    assert write(lambda tx: instances.forget_cluster(tx, shop.cluster, actor="test", reason="taken apart")) == 3
    assert {shop.row(key).state for key in keys} == {"deleted"}
    assert shop.used() == {}
    assert all(store.periods(key)[0][1] is not None for key in keys)


# -- by itself -------------------------------------------------------------------------------------------------


def test_what_died_on_its_way_is_gone_on_with(shop: Shop, small: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(*_args: Any, **_how: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(instances, "ask", die)
        with pytest.raises(Died):
            shop.add()
    [found] = instances.listed(cluster=shop.cluster)[1]
    assert (found.state, shop.used()["cpu", "STANDARD"]) == ("wanted", 1000)
    assert shop.tick().resumed == 0  # somebody may still be at it
    small.clock.advance(instances.LEASE_S + 1)
    assert shop.tick().resumed == 1
    assert shop.row(found.key).state == "applied"
    with monkeypatch.context() as patched:
        patched.setattr(instances, "ask", die)
        with pytest.raises(Died):
            shop.remove(found.key)
    small.clock.advance(instances.LEASE_S + 1)
    assert shop.tick().resumed == 1
    assert (shop.row(found.key).state, shop.left()) == ("deleted", [])


def test_phases_are_noted_and_metered(shop: Shop, small: Fleet) -> None:
    found = shop.add(source_podengine="Standalone")
    name = f"{found.key}-standalone"
    until(lambda: shop.kube.things("Pod")[0]["status"].get("phase") == "Running", "it runs")
    assert shop.tick().changed == 1
    assert shop.row(found.key).live == "running"
    assert shop.tick().changed == 0
    small.clock.advance(100)
    shop.kube.end_pod(found.namespace, name, reason="OOMKilled")
    assert shop.tick().changed == 1
    [(began, ended, _, why)] = store.periods(found.key)
    assert (ended - began, why) == (100, "failed")
    phases = [json.loads(one.data)["to"] for one in events.since(0, kind="instance.live")]
    assert phases == ["running", "failed"]


def test_what_somebody_took_away_is_made_again(shop: Shop, small: Fleet) -> None:
    from cloudsched.testing.kubeapi import kinds

    found = shop.add()
    shop.tick()
    shop.kube.api.delete(kinds.of("StatefulSet"), found.namespace, found.controller)
    shop.tick()
    assert shop.row(found.key).live == "missing"
    assert store.periods(found.key)[0][1] is not None
    shop.tick()
    small.clock.advance(1)
    shop.tick()
    assert len(shop.kube.things("StatefulSet")) == 1
    assert "instance.lost" in shop.kinds()
    shop.tick()
    assert [one[1] is None for one in store.periods(found.key)] == [False, True]


def test_a_cluster_that_is_away_says_nothing_about_its_instances(shop: Shop) -> None:
    found = shop.add()
    shop.tick()
    shop.kube.stop()
    assert shop.tick().away == 1
    assert (shop.row(found.key).state, store.periods(found.key)[0][1]) == ("applied", None)
    shop.kube.start()
    assert shop.tick().away == 0


def test_a_cluster_is_asked_as_often_for_many_as_for_one(shop: Shop) -> None:
    def requests() -> int:
        before = len(shop.kube.seen)
        shop.tick()
        return len(shop.kube.seen) - before

    first = shop.add()
    one = requests()
    copies = [(f"k{number:020d}",) for number in range(1000)]
    names = [name for name in store.COLUMNS.split(", ") if name not in ("id", "key", "node_port", "live", "amounts")]
    columns = ", ".join(names)
    write(lambda tx: tx.many(f"INSERT INTO instance (key, node_port, live, amounts, {columns}) "
                             f"SELECT ?, 0, 'missing', '[]', {columns} FROM instance WHERE key = '{first.key}'", copies))
    write(lambda tx: tx.run("UPDATE instance SET sweep = 1, not_before = 1e12 WHERE amounts = '[]'"))
    assert requests() == one
    assert instances.listed(cluster=shop.cluster, limit=20, offset=40)[0] == 1001
