"""Do manifests become objects, does somebody else's field stay theirs, and is nothing left after a deletion?"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import ApplyConflict, KubernetesDriver, NotGone, Selection
from cloudsched.errors import Invalid
from cloudsched.testing.kubeapi import KubeApi, Rule
from tests.drivers.kubernetes.conftest import PATIENCE, Cluster, on, until


def config(name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data or {"a": "1"}}


def one_of_each(cluster: Cluster, space: str) -> list[dict[str, Any]]:
    """Every kind that a cluster on demand or a resource instance is made of."""
    rbac = "rbac.authorization.k8s.io/v1"
    template = {"metadata": {"labels": {"app": "each"}}, "spec": cluster.pod_spec()}
    once = {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}
    select = {"selector": {"matchLabels": {"app": "each"}}}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "each"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    rules: list[dict[str, Any]] = [
        {"kind": "ServiceAccount"}, {"kind": "Secret", "stringData": {"user": "u", "password": "p"}},
        {"kind": "ConfigMap", "data": {"a": "1"}},
        {"kind": "Role", "apiVersion": rbac, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        {"kind": "RoleBinding", "apiVersion": rbac, "subjects": [{"kind": "ServiceAccount", "name": "each", "namespace": space}],
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "each"}},
        {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
        {"kind": "ResourceQuota", "spec": {"hard": {"pods": "100"}}},
        {"kind": "PersistentVolumeClaim", "spec": claim},
        {"kind": "Service", "spec": {"selector": {"app": "each"}, "ports": [{"port": 80, "name": "http"}]}},
        {"kind": "Pod", "spec": cluster.pod_spec()},
        {"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"replicas": 2, **select, "template": template}},
        {"kind": "StatefulSet", "apiVersion": "apps/v1",
         "spec": {"replicas": 2, "serviceName": "each", **select, "template": template}},
        {"kind": "DaemonSet", "apiVersion": "apps/v1", "spec": {**select, "template": template}},
        {"kind": "Job", "apiVersion": "batch/v1", "spec": {"template": once}},
        {"kind": "CronJob", "apiVersion": "batch/v1",
         "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": once}}}},
        {"kind": "PodDisruptionBudget", "apiVersion": "policy/v1",
         "spec": {"minAvailable": 1, **select}},
        {"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "spec": {
            "minReplicas": 2, "maxReplicas": 2, "scaleTargetRef": target}},
        {"kind": "Ingress", "apiVersion": "networking.k8s.io/v1", "spec": {
            "defaultBackend": {"service": {"name": "each", "port": {"number": 80}}}}},
    ]  # fmt: skip
    return [{"apiVersion": "v1", "metadata": {"name": "each", "labels": {"set": "each"}}, **one} for one in rules]


def test_every_kind_is_made_once_and_goes_without_a_trace(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    manifests = one_of_each(cluster, space)
    first = driver.apply(manifests)
    assert [(one.kind, one.action) for one in first] == [(one["kind"], "created") for one in manifests]
    assert {one.action for one in driver.apply(manifests)} == {"unchanged"}
    until(lambda: len(driver.pods(selector="app=each")) >= 5, "the pods of the workloads are there")
    gone = driver.delete(manifests, timeout_s=90 * PATIENCE, grace_s=0)
    assert {one.state for one in gone} == {"gone"}
    for kind in {one["kind"] for one in manifests} | {"ReplicaSet", "ControllerRevision"}:
        names = {one["metadata"]["name"] for one in driver.objects(kind)}
        assert [one for one in names if one.startswith("each")] == [], kind
    assert {one.state for one in driver.delete(manifests)} == {"absent"}


def test_what_changes_is_shown_before_it_is_done(driver: KubernetesDriver) -> None:
    driver.apply([config(a="1", b="2")])
    [would] = driver.apply([config(a="1", b="3")], dry_run=True)
    assert would.action == "configured"
    assert "-  b: '2'" in would.diff
    assert "+  b: '3'" in would.diff
    assert "resourceVersion" not in would.diff
    live = driver.get("ConfigMap", "settings")
    assert live is not None
    assert live["data"] == {"a": "1", "b": "2"}
    assert [one.action for one in driver.apply([config(a="1", b="2")], dry_run=True)] == ["unchanged"]
    assert [one.action for one in driver.apply([config(a="1", b="3")])] == ["configured"]
    assert driver.apply([config("other")], dry_run=True)[0].action == "created"
    assert driver.get("ConfigMap", "other") is None


def test_a_dry_run_of_a_namespace_and_what_is_in_it(cluster: Cluster, driver: KubernetesDriver) -> None:
    name = f"cs-{cluster.suffix}-never"
    inside = {**config(), "metadata": {"name": "x", "namespace": name}}
    results = driver.apply([inside, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}], dry_run=True)
    assert [one.action for one in results] == ["created", "created"]
    assert driver.get("Namespace", name) is None


def test_a_field_left_out_is_taken_back_and_others_stay(driver: KubernetesDriver) -> None:
    driver.apply([config(a="1", b="2")])
    driver.apply([config(c="3")], manager="somebody")
    driver.apply([config(a="1")])
    live = driver.get("ConfigMap", "settings")
    assert live is not None
    assert live["data"] == {"a": "1", "c": "3"}


def test_a_conflict_names_the_field_and_the_other_manager(driver: KubernetesDriver) -> None:
    driver.apply([config(a="1")], manager="somebody")
    with pytest.raises(ApplyConflict) as caught:
        driver.apply([config("first"), config(a="2")])
    assert caught.value.conflicts == [{"field": ".data.a", "manager": "somebody"}]
    assert ".data.a is managed by 'somebody'" in str(caught.value)
    assert caught.value.details["applied"] == ["ConfigMap first"]
    assert driver.apply([config(a="2")], force=True)[0].action == "configured"
    with pytest.raises(ApplyConflict, match="cloudsched"):
        driver.apply([config(a="3")], manager="somebody")


def test_elements_of_lists_belong_to_who_named_them(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    ours = cluster.deployment(space, "web", replicas=1)
    ours["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    driver.apply([ours])
    theirs = {**ours, "spec": {**ours["spec"], "template": {**ours["spec"]["template"], "spec": {
        "containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}]}}}}
    theirs["spec"] = {key: value for key, value in theirs["spec"].items() if key in ("template", "selector")}
    driver.apply([theirs], manager="somebody")
    assert driver.apply([ours])[0].action == "unchanged"
    live = driver.get("Deployment", "web")
    assert live is not None
    env = live["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {one["name"]: one["value"] for one in env} == {"A": "1", "B": "2"}


def test_what_an_owner_has_goes_with_it(driver: KubernetesDriver) -> None:
    driver.apply([config("owner")])
    owned = [config("one"), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "two"}}]
    driver.apply(owned, owner={"kind": "ConfigMap", "name": "owner"})
    assert driver.apply(owned, owner={"kind": "ConfigMap", "name": "owner"})[0].action == "unchanged"
    driver.delete([config("owner")])
    assert driver.get("ConfigMap", "one") is None
    assert driver.get("Secret", "two") is None
    with pytest.raises(Invalid, match="owner: ConfigMap owner is not there"):
        driver.apply(owned, owner={"kind": "ConfigMap", "name": "owner"})


def test_a_selection_goes_and_what_is_beside_it_stays(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    mine = [{**config(name), "metadata": {"name": name, "labels": {"set": "mine"}}} for name in ("a", "b")]
    web = cluster.deployment(space, "web")
    web["metadata"]["labels"] = {"set": "mine"}
    driver.apply([*mine, web, config("c")])
    gone = driver.delete(Selection("set=mine"), grace_s=0)
    assert sorted((one.kind, one.name) for one in gone) == [("ConfigMap", "a"), ("ConfigMap", "b"), ("Deployment", "web")]
    assert driver.pods() == []
    assert driver.get("ConfigMap", "c") is not None
    with pytest.raises(Invalid, match="labels"):
        driver.delete(Selection(" "))


def test_what_does_not_go_is_named_with_its_reason(driver: KubernetesDriver) -> None:
    held = config("held")
    held["metadata"]["finalizers"] = ["example.com/wait"]
    driver.apply([held, config("free")])

    def left() -> list[str]:
        with pytest.raises(NotGone, match=r"ConfigMap .*/held \(waits for example.com/wait\)") as caught:
            driver.delete([held, config("free")], timeout_s=0.3)
        assert caught.value.transient
        return caught.value.left

    until(lambda: len(left()) == 1, "the other one goes")
    driver._api.send("PATCH", f"/api/v1/namespaces/{driver.namespace}/configmaps/held", {"metadata": {"finalizers": None}},
                     content_type="application/merge-patch+json")
    driver.delete([held])


def test_a_namespace_takes_all_that_is_in_it(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    held = config("held")
    held["metadata"]["finalizers"] = ["example.com/wait"]
    driver.apply([cluster.deployment(space, "web"), config(), held])
    cluster.running(space, 2)
    whole = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}]
    with pytest.raises(NotGone, match=f"Namespace {space}"):
        driver.delete(whole, timeout_s=0.3)
    with pytest.raises(DriverError, match="being terminated") as caught:
        driver.apply([config("late")])
    assert caught.value.transient
    driver._api.send("PATCH", f"/api/v1/namespaces/{space}/configmaps/held", {"metadata": {"finalizers": None}},
                     content_type="application/merge-patch+json")
    driver.delete(whole, timeout_s=90 * PATIENCE)
    assert driver.get("Namespace", space) is None
    assert driver.pods(space) == []


def test_a_kind_of_ones_own(cluster: Cluster, driver: KubernetesDriver) -> None:
    group = f"test-{cluster.suffix}.cloudsched.io"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"sparks.{group}"},
           "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "sparks", "singular": "spark", "kind": "Spark"},
                    "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}}
    spark = {"apiVersion": f"{group}/v1", "kind": "Spark", "metadata": {"name": "one"}, "spec": {"workers": [{"cores": 2}]}}
    with pytest.raises(Invalid, match="this cluster has no Spark"):
        driver.apply([spark])
    driver.apply([crd])

    def applied() -> bool:
        try:
            return driver.apply([spark])[0].action == "created"
        except (Invalid, DriverError):
            return False

    try:
        until(applied, "the definition is served")
        assert driver.apply([spark])[0].action == "unchanged"
        spark["spec"] = {"workers": [{"cores": 2}, {"cores": 4}]}
        assert driver.apply([spark])[0].action == "configured"
        assert [one["spec"] for one in driver.objects("Spark", api_version=f"{group}/v1")] == [spark["spec"]]
        driver.delete([spark])
    finally:
        driver.delete([crd])


def test_secrets_do_not_show_in_a_diff(driver: KubernetesDriver) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}
    driver.apply([secret])
    [would] = driver.apply([{**secret, "data": {"password": "aHVudGVyMw=="}}], dry_run=True)
    assert would.action == "configured"
    assert "password: (hidden" in would.diff
    assert "aHVudGVyM" not in would.diff


@pytest.mark.parametrize(("manifest", "says"), [
    ({"kind": "Pod", "metadata": {"name": "x"}}, r"manifests\[0\].apiVersion: is missing"),
    ({"apiVersion": "v1", "metadata": {"name": "x"}}, r"manifests\[0\].kind: is missing"),
    ({"apiVersion": "v1", "kind": "Pod", "metadata": {}}, r"manifests\[0\].metadata.name: is missing"),
    ({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x", "namespace": "y"}}, "a Node has no namespace"),
    ({"apiVersion": "no.such/v1", "kind": "Thing", "metadata": {"name": "x"}}, "this cluster has no Thing of no.such/v1"),
    ("text", "str is not a manifest"),
])  # fmt: skip
def test_manifests_that_cannot_be_read_are_refused_before_anything_is_done(
        driver: KubernetesDriver, manifest: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        driver.apply([manifest])


def test_what_the_server_refuses_is_told_with_the_object(driver: KubernetesDriver) -> None:
    bad = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {"containers": []}}
    with pytest.raises(DriverError, match=r"Pod .*/bad: .*spec.containers: Required value") as caught:
        driver.apply([{"apiVersion": "v1", "kind": "List", "items": [config("fine"), bad]}])
    assert (caught.value.code, caught.value.transient) == (base.REQUEST, False)
    assert caught.value.details["applied"] == ["ConfigMap fine"]


# -- what only the stand-in can do ---------------------------------------------------------------------------------


def test_who_may_not_is_told_what(kube: KubeApi) -> None:
    token = kube.add_user("reader", Rule(("get", "list", "watch"), ("*",)))
    driver = on(kube, token=token)
    with pytest.raises(DriverError, match='User "reader" cannot patch resource "configmaps"') as caught:
        driver.apply([config()])
    assert (caught.value.code, caught.value.transient) == (base.DENIED, False)
    kube.remove_user(token)
    with pytest.raises(DriverError, match="credentials are not valid") as caught:
        driver.apply([config()])
    assert caught.value.code == base.AUTH
    assert token not in repr((caught.value, caught.value.details, driver))


def test_an_api_server_that_is_replaced_in_the_middle(kube: KubeApi) -> None:
    driver = on(kube, timeout_s=20)
    driver.apply([config("before")])
    kube.stop()
    back = threading.Timer(0.3, kube.start)
    back.start()
    results = driver.apply([config(f"c{number}") for number in range(5)])
    back.join()
    assert {one.action for one in results} == {"created"}
    kube.restart()
    assert driver.get("ConfigMap", "before") is not None


@pytest.mark.parametrize("fault", ["throttled", "server_error", "unreachable", "answer_lost"])
def test_one_failure_on_the_way_is_not_noticed(kube: KubeApi, fault: str) -> None:
    driver = on(kube)
    kube.fail(fault, method="PATCH")
    assert driver.apply([config()])[0].object["data"] == {"a": "1"}


def test_pages_that_expire_are_read_anew(kube: KubeApi) -> None:
    driver = on(kube)
    for number in range(620):
        kube.api.create(kube.kind_at("", "v1", "configmaps"), "default", config(f"c-{number:04}"))  # type: ignore[arg-type]
    asked = 0

    def forget_once() -> str | None:
        nonlocal asked
        asked += 1
        if asked == 2:
            kube.api.create(kube.kind_at("", "v1", "configmaps"), "default", config("late"))  # type: ignore[arg-type]
            kube.forget_history()
        return None

    kube.take_fault = lambda method, path: forget_once()  # type: ignore[method-assign]
    found = driver.objects("ConfigMap")
    assert len(found) == 622
    assert asked == 4


def test_what_a_controller_notes_meanwhile_is_no_change_of_ours(kube: KubeApi) -> None:
    """Between our look and our apply somebody else writes: the version is another, what we said is not."""
    driver = on(kube)
    ours = {**config(a="1", b="2"), "metadata": {"name": "settings", "labels": {"set": "mine"}}}
    driver.apply([ours])
    find, noted = driver._api.find, 0

    def find_then_note(path: str, **how: Any) -> Any:
        nonlocal noted
        found = find(path, **how)
        noted += 1
        driver._api.send("PATCH", path, {"metadata": {"annotations": {"note": str(noted)}}},
                         content_type="application/merge-patch+json", query={"fieldManager": "controller"})
        return found

    driver._api.find = find_then_note  # type: ignore[method-assign]
    assert driver.apply([ours])[0].action == "unchanged"
    assert driver.apply([{**ours, "data": {"a": "1", "b": "3"}}])[0].action == "configured"
    assert driver.apply([{**ours, "data": {"a": "1"}}])[0].action == "configured"
    assert noted == 3


def test_a_long_refusal_keeps_its_reason(kube: KubeApi) -> None:
    """The whole pod is told before the words that say why."""
    driver = on(kube)
    env = [{"name": f"VARIABLE_{number}", "value": "x" * 50} for number in range(30)]
    spec = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1", "env": env}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}}
    driver.apply([job])
    spec["containers"][0]["image"] = "i:2"  # type: ignore[index]
    with pytest.raises(DriverError, match=r"Job default/j: .*template: Invalid value.* \.\.\. .*field is immutable") as caught:
        driver.apply([job])
    assert len(caught.value.message) < 1000


def test_a_quota_that_nobody_has_counted_yet_is_asked_again_later() -> None:
    from cloudsched.drivers.kubernetes.client import refusal_of

    refused = refusal_of({"message": 'pods "p" is forbidden: status unknown for quota: q, resources: pods'}, status=403)
    assert (refused.code, refused.transient) == (base.QUOTA, True)


def test_elements_and_sets_that_we_own() -> None:
    from cloudsched.drivers.kubernetes.diff import owned

    tree = {"f:metadata": {"f:finalizers": {'v:"a"': {}}}, "f:spec": {"f:ports": {
        'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}}}}}
    thing = {"metadata": {"finalizers": ["a", "b"], "managedFields": [
        {"manager": "us", "operation": "Update", "fieldsV1": {"f:data": {}}},
        {"manager": "us", "operation": "Apply", "fieldsV1": tree}]},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "web", "nodePort": 30001}]}}
    assert owned(thing, "us") == (tree, {"f:metadata": {"f:finalizers": {'v:"a"': True}}, "f:spec": {"f:ports": {
        'k:{"port":80,"protocol":"TCP"}': {"f:name": "web"}}}})
    assert owned(thing, "others") == (None, None)
