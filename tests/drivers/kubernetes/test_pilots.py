"""Is a pod as a machine found, told truly, and taken away with all it holds, whatever goes wrong on the way?"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.drivers import base
from cloudsched.drivers.agentfile import agent_pyz
from cloudsched.drivers.base import DriverError, Machine, Wanted
from cloudsched.drivers.kubernetes import KubernetesDriver, pilot
from cloudsched.drivers.kubernetes.options import Options
from cloudsched.drivers.kubernetes.podstates import state_of
from cloudsched.drivers.kubernetes.quantities import GPU
from cloudsched.testing.kubeapi import KubeApi, Rule
from tests.drivers.kubernetes.conftest import Cluster, on, until


def wanted(name: str = "node-1", **facts: Any) -> Wanted:
    basic = Wanted(name, node_id=7, cores=1, memory_mb=256, storage_gb=1, join_token="very-secret-token")
    return replace(basic, **facts)


def machine(driver: KubernetesDriver, name: str = "node-1") -> Machine:
    return next(one for one in driver.machines() if one.name == name)


def runs(driver: KubernetesDriver, name: str = "node-1") -> Machine:
    found: Machine = until(lambda: next((one for one in driver.machines() if one.name == name and one.state == "Running"), None),
                           f"{name} runs")
    return found


def nothing_is_left(kube: KubeApi) -> None:
    left = [f"{one['kind']} {one['metadata']['name']}" for kind in ("Pod", "Secret", "ConfigMap")
            for one in kube.things(kind, "default") if one["metadata"]["name"] != "kube-root-ca.crt"]
    assert left == []


def test_gpus_of_a_pilot() -> None:
    assert pilot._resources(wanted(gpus=2), Options())["limits"][GPU] == "2"
    assert pilot._resources(wanted(gpus=2), Options(resources={GPU: "4"}))["limits"][GPU] == "4"
    assert GPU not in pilot._resources(wanted(), Options())["limits"]


# -- on every cluster ----------------------------------------------------------------------------------------------


def test_what_a_pilot_is_made_of(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    booted = driver.boot(wanted("Node 1/ü", cores=2, memory_mb=512, slots=3, labels={"team": "a"}))
    pod = driver.get("Pod", booted.handle["pod"])
    assert pod is not None
    assert pod["metadata"]["annotations"]["cloudsched.io/name"] == "Node 1/ü"
    assert pod["metadata"]["name"].startswith("node-1-")
    assert pod["spec"]["restartPolicy"] == "Never"
    container = pod["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "1Gi"}
    assert "very-secret-token" not in str(pod)
    secret = driver.get("Secret", booted.handle["pod"])
    assert secret is not None
    assert base64.b64decode(secret["data"]["token"]) == b"very-secret-token"
    assert [one["uid"] for one in secret["metadata"]["ownerReferences"]] == [booted.external_id]
    [agent] = driver.objects("ConfigMap", selector="cloudsched.io/agent")
    assert base64.b64decode(agent["binaryData"]["agent.pyz"]) == agent_pyz()
    driver.boot(wanted("another"))
    assert len(driver.objects("ConfigMap", selector="cloudsched.io/agent")) == 1
    driver.destroy("Node 1/ü", {})
    assert len(driver.objects("ConfigMap", selector="cloudsched.io/agent")) == 1
    driver.destroy("another", {})
    assert driver.objects("ConfigMap", selector="cloudsched.io/agent") == []
    assert driver.objects("Secret", selector="app.kubernetes.io/managed-by=cloudsched") == []


def test_whoever_deletes_the_pod_has_deleted_the_secret(driver: KubernetesDriver) -> None:
    booted = driver.boot(wanted())
    driver.delete([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": booted.handle["pod"]}}], grace_s=0)
    assert driver.machines() == []
    until(lambda: driver.get("Secret", booted.handle["pod"]) is None, "the secret is collected")


def test_a_pod_that_fits_nowhere_waits_and_says_why(cluster: Cluster, space: str) -> None:
    driver = cluster.driver(space, node_selector={"no-such": "label"})
    driver.boot(wanted())
    waiting = until(lambda: next((one for one in driver.machines() if one.reason), None), "the scheduler has looked")
    assert waiting.state == "Starting"
    assert waiting.reason.startswith("Unschedulable: ")
    driver.destroy("node-1", {})


def test_a_quota_is_told_apart(driver: KubernetesDriver, space: str) -> None:
    driver.apply([{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}])
    until(lambda: (driver.get("ResourceQuota", "q") or {}).get("status", {}).get("hard"), "the quota is known")
    driver.boot(wanted("fits"))
    until(lambda: (driver.get("ResourceQuota", "q") or {}).get("status", {}).get("used") == {"pods": "1"}, "it is counted")
    with pytest.raises(DriverError, match="exceeded quota: q") as caught:
        driver.boot(wanted("too-many"))
    assert caught.value.code == base.QUOTA
    assert [one.name for one in driver.machines()] == ["fits"]
    driver.destroy("fits", {})
    assert driver.objects("Secret", selector="app.kubernetes.io/managed-by=cloudsched") == []


def test_a_namespace_that_is_missing_is_named_or_made(cluster: Cluster) -> None:
    name = f"cs-{cluster.suffix}-made"
    with pytest.raises(DriverError, match=f"namespace: there is no '{name}'") as caught:
        cluster.driver(name).boot(wanted())
    assert caught.value.code == base.REQUEST
    driver = cluster.driver(name, create_namespace=True)
    cluster._spaces.append(name)
    driver.boot(wanted())
    runs(driver)
    driver.destroy("node-1", {})


# -- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("why", "state"), [("ImagePullBackOff", "Error"), ("ErrImagePull", "Error"),
                                            ("InvalidImageName", "Error"), ("CrashLoopBackOff", "Error")])
def test_a_container_that_cannot_start(kube: KubeApi, why: str, state: str) -> None:
    kube.habits.images["bad:1"] = why
    driver = on(kube, image="bad:1")
    driver.boot(wanted())
    seen = until(lambda: next((one for one in driver.machines() if one.reason), None), "it is told")
    assert (seen.state, seen.reason.split(":")[0]) == (state, why)
    driver.destroy("node-1", {})
    nothing_is_left(kube)


@pytest.mark.parametrize(("how", "reason"), [
    ({"reason": "OOMKilled", "exit_code": 137}, "OOMKilled: exit status 137"),
    ({"of_pod": "Evicted", "message": "The node was low on resource: memory."}, "Evicted: The node was low on resource: memory."),
    ({"of_pod": "Preempting", "message": "Preempted by x"}, "Preempting: Preempted by x"),
    ({"exit_code": 2}, "Error: exit status 2"), ({"exit_code": 0}, "Completed")])
def test_how_a_pilot_ended(kube: KubeApi, how: dict[str, Any], reason: str) -> None:
    driver = on(kube)
    first = driver.boot(wanted())
    runs(driver)
    kube.end_pod("default", first.handle["pod"], **how)
    seen = machine(driver)
    assert (seen.state, seen.reason) == ("Shutdown", reason)
    again = driver.boot(wanted())
    assert again.external_id != first.external_id
    runs(driver)
    driver.destroy("node-1", {})
    nothing_is_left(kube)


def test_words_of_the_cluster_that_the_stand_in_does_not_say() -> None:
    pod: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Failed", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for a better one"}]}}
    assert state_of(pod, now=0).reason == "Preempted: for a better one"
    pod["status"] = {"phase": "Unknown", "reason": "NodeLost"}
    assert state_of(pod, now=0).state == "Error"
    pod["status"] = {"phase": "Running"}
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert (state_of(pod, now=0).state, state_of(pod, now=0).reason) == ("Shutdown", "Terminating")


def test_who_waits_too_long_for_a_node_is_in_error(kube: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = on(kube, pending_timeout_s=100)
    driver.boot(wanted(cores=999))
    until(lambda: machine(driver).reason, "the scheduler has looked")
    time = ManualClock(clock.now() + 90)
    monkeypatch.setattr(clock, "now", time.now)
    assert machine(driver).state == "Starting"
    time.advance(20)
    seen = machine(driver)
    assert (seen.state, seen.reason) == ("Error", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pods", "/secrets", "/configmaps"])
@pytest.mark.parametrize("then", ["boot", "destroy"])
def test_an_answer_that_is_lost(kube: KubeApi, path: str, then: str) -> None:
    driver = on(kube)
    kube.fail("answer_lost", method="POST", path=path)
    with pytest.raises(DriverError, match="cannot be reached") as caught:
        driver.boot(wanted())
    assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
    assert "very-secret-token" not in repr(caught.value)
    if then == "boot":
        driver.boot(wanted())
        runs(driver)
        assert len(kube.things("Pod")) == len(kube.things("Secret")) == 1
    driver.destroy("node-1", {})
    nothing_is_left(kube)


def test_half_created_and_never_finished(kube: KubeApi) -> None:
    """The booter dies between the pod and its secret: the pod shows, waits, and goes."""
    driver = on(kube)
    kube.fail("unreachable", method="POST", path="/secrets", times=9)
    with pytest.raises(DriverError):
        driver.boot(wanted())
    kube.heal()
    assert (machine(driver).state, kube.things("Secret")) == ("Starting", [])
    another = on(kube)
    another.destroy("node-1", {})
    nothing_is_left(kube)


def test_a_secret_that_is_refused_takes_its_pod_along(kube: KubeApi) -> None:
    token = kube.add_user("half", denied=[Rule(("create",), ("secrets",))])
    driver = on(kube, token=token)
    with pytest.raises(DriverError, match="secrets") as caught:
        driver.boot(wanted())
    assert caught.value.code == base.DENIED
    nothing_is_left(kube)


def test_a_secret_of_an_earlier_pod_is_replaced(kube: KubeApi) -> None:
    driver = on(kube)
    first = driver.boot(wanted())
    kube.controllers.paused = True  # the garbage collector is slow
    kube.api.delete(kube.kind_at("", "v1", "pods"), "default", first.handle["pod"], {"gracePeriodSeconds": 0})  # type: ignore[arg-type]
    again = driver.boot(wanted(join_token="another-token"))
    [secret] = kube.things("Secret")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == again.external_id
    assert base64.b64decode(secret["data"]["token"]) == b"another-token"
    kube.controllers.paused = False
    with kube.store.lock:
        kube.store.changed.notify_all()
    runs(driver)
    assert len(kube.things("Secret")) == 1


@pytest.mark.parametrize(("fault", "code", "transient", "times"), [
    ("throttled", base.OTHER, True, 99), ("expired", base.AUTH, False, 1), ("server_error", base.ENDPOINT, True, 99),
    ("unreachable", base.ENDPOINT, True, 99)])
def test_each_refusal_has_its_code(kube: KubeApi, fault: str, code: int, transient: bool, times: int) -> None:
    slept: list[float] = []
    driver = KubernetesDriver(on(kube)._place, pause=slept.append)
    for call in (lambda: driver.boot(wanted()), driver.machines, lambda: driver.destroy("node-1", {})):
        kube.heal()
        kube.fail(fault, times=times)
        with pytest.raises(DriverError) as caught:
            call()  # type: ignore[operator]
        assert (caught.value.code, caught.value.transient) == (code, transient)
        assert kube.token not in repr(caught.value)
    kube.heal()
    nothing_is_left(kube)


def test_unreachable_for_minutes_then_all_is_found_again(kube: KubeApi) -> None:
    driver = KubernetesDriver(on(kube)._place, pause=lambda _: None)
    first = driver.boot(wanted())
    kube.stop()
    for call in (driver.machines, lambda: driver.destroy("node-1", {})):
        with pytest.raises(DriverError, match="the connection is refused") as caught:
            call()  # type: ignore[operator]
        assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
    assert [one.ok for one in driver.verify()] == [False]
    kube.start()
    driver = on(kube)
    assert runs(driver).external_id == first.external_id
    driver.destroy("node-1", {})
    nothing_is_left(kube)


def test_a_server_that_does_not_answer_is_not_waited_for(kube: KubeApi) -> None:
    driver = on(kube, timeout_s=0.3)
    kube.fail("hangs", times=9)
    with pytest.raises(DriverError, match="no answer within the time limit") as caught:
        driver.machines()
    assert caught.value.transient
    kube.heal()


def test_a_pod_that_vanishes_is_no_error(kube: KubeApi) -> None:
    driver = on(kube)
    booted = driver.boot(wanted())
    kube.api.delete(kube.kind_at("", "v1", "pods"), "default", booted.handle["pod"], {"gracePeriodSeconds": 0})  # type: ignore[arg-type]
    assert driver.machines() == []
    driver.destroy("node-1", booted.handle)
    nothing_is_left(kube)


def test_a_pod_on_a_node_that_is_lost_is_let_go(kube: KubeApi) -> None:
    driver = on(kube, grace_s=0, destroy_timeout_s=2)
    driver.boot(wanted())
    runs(driver)
    kube.habits.stop_s = 60
    kube.lose_node("node-1")
    driver.destroy("node-1", {})
    nothing_is_left(kube)


def test_a_pod_that_does_not_end_in_time_is_told(kube: KubeApi) -> None:
    driver = on(kube, destroy_timeout_s=0.1)
    driver.boot(wanted())
    runs(driver)
    kube.habits.stop_s = 0.5
    with pytest.raises(DriverError, match="does not end") as caught:
        driver.destroy("node-1", {})
    assert caught.value.transient
    until(lambda: not kube.things("Pod"), "it ends by itself")
    driver.destroy("node-1", {})
    nothing_is_left(kube)


def test_the_agent_is_put_back_when_its_last_pilot_goes_at_the_wrong_moment(kube: KubeApi) -> None:
    """A boot between another's last destroy and its clean-up finds its agent again."""
    driver, other = on(kube), on(kube, name="other")
    driver.boot(wanted())
    really, asked = driver._pilots._is_needed, 0

    def needed(digest: str) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            return False
        other.boot(wanted("late"))  # its agent has just been taken away, or it finds the old one: both must end well
        return really(digest)

    driver._pilots._is_needed = needed  # type: ignore[method-assign]
    driver.destroy("node-1", {})
    assert [one["metadata"]["labels"]["cloudsched.io/agent"] for one in kube.things("ConfigMap", "default")
            if "labels" in one["metadata"]]
    runs(other, "late")
    other.destroy("late", {})
    nothing_is_left(kube)


# -- verify --------------------------------------------------------------------------------------------------------


def failed(driver: KubernetesDriver) -> dict[str, str]:
    return {one.name: one.detail for one in driver.verify() if not one.ok}


def test_verify_names_what_is_missing(kube: KubeApi) -> None:
    token = kube.add_user("half", denied=[Rule(("create",), ("secrets",)), Rule(("*",), ("nodes",))])
    assert failed(on(kube, token=token)) == {
        "permissions": "not allowed in default: create secrets; grant them with a Role"}
    no_nodes = kube.add_user("enough", denied=[Rule(("*",), ("nodes",))])
    rights = next(one for one in on(kube, token=no_nodes).verify() if one.name == "permissions")
    assert rights.ok
    assert "list nodes, patch nodes" in rights.detail
    assert "there is no 'absent'" in failed(on(kube, namespace="absent"))["namespace"]
    assert failed(on(kube, namespace="absent", create_namespace=True)) == {}
    assert failed(on(kube, token="wrong")) == {"api server": "the credentials are not valid (any more)"}


def test_verify_tries_a_pod_without_making_it(kube: KubeApi) -> None:
    kube.api.create(kube.kind_at("", "v1", "resourcequotas"), "default", {  # type: ignore[arg-type]
        "metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "500m"}}})
    assert "exceeded quota: q" in failed(on(kube))["pilot pod"]
    assert "serviceaccount \"none\" not found" in failed(on(kube, service_account="none"))["pilot pod"]
    assert kube.things("Pod") == []


def test_verify_says_when_pods_cannot_call_us() -> None:
    from cloudsched.drivers.base import Place
    from cloudsched.drivers.kubernetes import make, verify

    def check(server: str, url: str) -> bool:
        config = KubeApi().kubeconfig().replace("http://127.0.0.1:0", server)
        driver = make(Place("k", "Kubernetes", {}, credentials={"kubeconfig": config}, server_url=url))
        return verify._server_url(driver._api, driver._place, driver._options).ok

    assert not check("https://10.0.0.1:6443", "http://127.0.0.1:8100")
    assert not check("https://10.0.0.1:6443", "")
    assert check("https://10.0.0.1:6443", "http://10.0.0.2:8100")
    assert check("https://127.0.0.1:6443", "http://localhost:8100")
