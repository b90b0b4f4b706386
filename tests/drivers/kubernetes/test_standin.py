"""Does the stand-in answer as an API server does, where a client could tell the difference?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import until

APPLY = {"Content-Type": "application/apply-patch+yaml"}
MERGE = {"Content-Type": "application/merge-patch+json"}
MAPS = "/api/v1/namespaces/default/configmaps"


class Client:
    def __init__(self, kube: KubeApi) -> None:
        self.kube = kube
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {kube.token}"

    def __call__(self, method: str, path: str, body: Any = None, **how: Any) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        answer = self.session.request(method, self.kube.url + path, data=data, timeout=20, **how)
        return answer.status_code, answer.json() if answer.headers["Content-Type"] == "application/json" else answer.text


@pytest.fixture
def ask(kube: KubeApi) -> Iterator[Client]:
    client = Client(kube)
    yield client
    client.session.close()


def config(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_refusals_word_for_word(ask: Client) -> None:
    assert ask("GET", MAPS + "/none") == (404, {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": 'configmaps "none" not found',
        "reason": "NotFound", "details": {"name": "none", "kind": "configmaps"}, "code": 404})
    assert ask("POST", MAPS, config())[0] == 201
    code, body = ask("POST", MAPS, config())
    assert (code, body["reason"], body["message"]) == (409, "AlreadyExists", 'configmaps "a" already exists')
    live = ask("GET", MAPS + "/a")[1]
    live["metadata"]["resourceVersion"] = "1"
    code, body = ask("PUT", MAPS + "/a", live)
    assert (code, body["reason"]) == (409, "Conflict")
    assert body["message"].startswith('Operation cannot be fulfilled on configmaps "a": the object has been modified')
    code, body = ask("DELETE", MAPS + "/a", {"preconditions": {"uid": "other"}})
    assert (code, body["reason"]) == (409, "Conflict")
    assert ask("GET", "/api/v1/namespaces/none/configmaps")[1]["items"] == []
    assert ask("POST", "/api/v1/namespaces/none/configmaps", config())[1]["message"] == 'namespaces "none" not found'
    assert ask("GET", "/apis/nothing/v1/things") == (404, "404 page not found\n")
    assert ask("GET", "/api/v1/pods", headers={"Authorization": "Bearer x"})[1]["reason"] == "Unauthorized"
    assert ask("GET", MAPS + "?continue=x")[0] == 400
    assert ask("GET", MAPS + "?labelSelector=a%20b")[0] == 400
    assert ask("PATCH", MAPS + "/a", {}, headers={"Content-Type": "text/plain"})[0] == 415


def test_apply_needs_its_manager_and_its_kind(ask: Client) -> None:
    assert ask("PATCH", MAPS + "/a", config(), headers=APPLY)[0] == 422
    assert ask("PATCH", MAPS + "/a?fieldManager=me", {"metadata": {"name": "a"}}, headers=APPLY)[0] == 400
    assert ask("PATCH", MAPS + "/b?fieldManager=me", config("a"), headers=APPLY)[0] == 400
    assert ask("PATCH", MAPS + "/a?fieldManager=me", config(), headers=APPLY)[0] == 201
    assert ask("PATCH", MAPS + "/a?fieldManager=me", config(), headers=APPLY)[0] == 200


def test_who_owns_what(ask: Client) -> None:
    ask("PATCH", MAPS + "/a?fieldManager=me", config(x="1", y="1"), headers=APPLY)
    code, body = ask("PATCH", MAPS + "/a?fieldManager=you", config(x="2", y="2"), headers=APPLY)
    assert code == 409
    assert body["message"] == 'Apply failed with 2 conflicts: conflicts with "me":\n- .data.x\n- .data.y'
    assert body["details"]["causes"][0] == {
        "reason": "FieldManagerConflict", "message": 'conflict with "me"', "field": ".data.x"}
    assert ask("PATCH", MAPS + "/a?fieldManager=you", config(x="1"), headers=APPLY)[0] == 200  # the same value: both own it
    assert ask("PATCH", MAPS + "/a?fieldManager=you&force=true", config(x="2"), headers=APPLY)[1]["data"] == {"x": "2", "y": "1"}
    owners = {one["manager"]: one["fieldsV1"]["f:data"] for one in ask("GET", MAPS + "/a")[1]["metadata"]["managedFields"]}
    assert owners == {"me": {"f:y": {}}, "you": {"f:x": {}}}
    ask("PATCH", MAPS + "/a?fieldManager=hand", {"data": {"y": "3"}}, headers=MERGE)
    code, body = ask("PATCH", MAPS + "/a?fieldManager=me", config(y="1"), headers=APPLY)
    assert code == 409
    assert 'conflict with "hand" using v1 at ' in body["message"]


def test_a_write_that_changes_nothing_has_no_version(ask: Client) -> None:
    first = ask("PATCH", MAPS + "/a?fieldManager=me", config(x="1"), headers=APPLY)[1]["metadata"]["resourceVersion"]
    assert ask("PATCH", MAPS + "/a?fieldManager=me", config(x="1"), headers=APPLY)[1]["metadata"]["resourceVersion"] == first
    live = ask("GET", MAPS + "/a")[1]
    assert ask("PUT", MAPS + "/a?fieldManager=other", live)[1]["metadata"]["resourceVersion"] == first
    dry = ask("PATCH", MAPS + "/a?fieldManager=me&dryRun=All", config(x="2"), headers=APPLY)[1]
    assert (dry["data"], dry["metadata"]["resourceVersion"]) == ({"x": "2"}, first)
    assert ask("GET", MAPS + "/a")[1]["data"] == {"x": "1"}


def test_patches(ask: Client) -> None:
    ask("POST", MAPS, config(x="1"))
    operations = [{"op": "test", "path": "/data/x", "value": "1"}, {"op": "add", "path": "/data/y~1z", "value": "2"},
                  {"op": "move", "from": "/data/x", "path": "/data/w"}]
    headers = {"Content-Type": "application/json-patch+json"}
    assert ask("PATCH", MAPS + "/a", operations, headers=headers)[1]["data"] == {"y/z": "2", "w": "1"}
    assert ask("PATCH", MAPS + "/a", operations, headers=headers)[0] == 400
    container = {"name": "c", "image": "i:1", "env": [{"name": "A", "value": "1"}]}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [container]}}
    ask("POST", "/api/v1/namespaces/default/pods", pod)
    change = {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    [container] = ask("PATCH", "/api/v1/namespaces/default/pods/p", change, headers=headers)[1]["spec"]["containers"]
    assert (container["image"], container["env"]) == ("i:2", [{"name": "A", "value": "1"}])


def test_pages_and_their_version(ask: Client) -> None:
    for number in range(5):
        ask("POST", MAPS, config(f"c{number}"))
    first = ask("GET", MAPS + "?limit=2")[1]
    ask("POST", MAPS, config("c9"))
    second = ask("GET", MAPS + f"?limit=9&continue={first['metadata']['continue']}")[1]
    assert [one["metadata"]["name"] for one in first["items"]] == ["c0", "c1"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert first["metadata"]["remainingItemCount"] == 4
    ask.kube.forget_history()
    assert ask("GET", MAPS + f"?continue={first['metadata']['continue']}")[1]["reason"] == "Expired"


@pytest.mark.parametrize(("selector", "found"), [
    ("a=1", "xy"), ("a!=1", "z"), ("a in (1,2)", "xyz"), ("b notin (1)", "yz"), ("b", "x"), ("!b", "yz"), ("a=1,b=1", "x")])
def test_selectors(ask: Client, selector: str, found: str) -> None:
    for name, labels in {"x": {"a": "1", "b": "1"}, "y": {"a": "1"}, "z": {"a": "2"}}.items():
        ask("POST", MAPS, {**config(name), "metadata": {"name": name, "labels": labels | {"t": "t"}}})
    listed = ask("GET", MAPS, params={"labelSelector": f"{selector},t"})[1]["items"]
    assert "".join(one["metadata"]["name"] for one in listed) == found


def test_owners_finalizers_and_three_ways_to_delete(ask: Client) -> None:
    def family(name: str) -> None:
        uid = ask("POST", MAPS, config(name))[1]["metadata"]["uid"]
        child = config(f"{name}-child")
        child["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid,
                                                 "blockOwnerDeletion": True}]
        child["metadata"]["finalizers"] = ["example.com/held"]
        ask("POST", MAPS, child)

    def there(name: str) -> Any:
        code, body = ask("GET", f"{MAPS}/{name}")
        return body["metadata"] if code == 200 else None

    for policy in ("Background", "Foreground", "Orphan"):
        family(policy.lower())
        ask("DELETE", f"{MAPS}/{policy.lower()}", {"propagationPolicy": policy})
    until(lambda: there("background") is None and there("background-child").get("deletionTimestamp"), "the child follows")
    until(lambda: there("foreground-child").get("deletionTimestamp"), "the child goes first")
    assert there("foreground")["finalizers"] == ["foregroundDeletion"]
    until(lambda: there("orphan") is None, "it left its child behind")
    assert not there("orphan-child").get("ownerReferences")
    for name in ("background-child", "foreground-child"):
        ask("PATCH", f"{MAPS}/{name}", {"metadata": {"finalizers": None}}, headers=MERGE)
    until(lambda: there("foreground") is None and there("background-child") is None, "all held ones go")
    stray = config("stray")
    stray["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "none"}]
    ask("POST", MAPS, stray)
    until(lambda: there("stray") is None, "whose owner never was is collected")


def test_a_job_leaves_its_pods_unless_told_otherwise(ask: Client) -> None:
    jobs, pods = "/apis/batch/v1/namespaces/default/jobs", "/api/v1/namespaces/default/pods"
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}
    ask("POST", jobs, {"metadata": {"name": "j"}, "spec": {"template": template}})
    until(lambda: ask("GET", pods)[1]["items"], "its pod")
    ask("DELETE", jobs + "/j")
    until(lambda: ask("GET", jobs + "/j")[0] == 404, "it is gone")
    assert len(ask("GET", pods)[1]["items"]) == 1


def test_statefulsets_grow_in_order_and_keep_their_claims(ask: Client) -> None:
    sets = "/apis/apps/v1/namespaces/default/statefulsets"
    claim = {"metadata": {"name": "data"},
             "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    ask("POST", sets, {"metadata": {"name": "s"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "serviceName": "s", "template": template,
        "volumeClaimTemplates": [claim]}})
    until(lambda: ask("GET", sets + "/s")[1]["status"].get("readyReplicas") == 2, "both are ready")
    assert [one["metadata"]["name"] for one in ask("GET", "/api/v1/pods")[1]["items"]] == ["s-0", "s-1"]
    ask("DELETE", sets + "/s", {"propagationPolicy": "Foreground"})
    until(lambda: not ask("GET", "/api/v1/pods")[1]["items"], "the pods are gone")
    claims = ask("GET", "/api/v1/persistentvolumeclaims")[1]["items"]
    assert [one["metadata"]["name"] for one in claims] == ["data-s-0", "data-s-1"]


def test_taints_and_cordon_keep_pods_away(ask: Client) -> None:
    ask("PATCH", "/api/v1/nodes/node-1", {"spec": {"unschedulable": True}}, headers=MERGE)
    ask.kube.add_node("tainted", taints=[{"key": "spot", "value": "yes", "effect": "NoSchedule"}])
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    ask("POST", "/api/v1/namespaces/default/pods", pod)

    def why() -> str:
        conditions = ask("GET", "/api/v1/namespaces/default/pods/p")[1]["status"].get("conditions") or [{}]
        return str(conditions[0].get("message", ""))

    until(lambda: "untolerated taint {spot: yes}" in why() and "1 node(s) were unschedulable" in why(), "both say why")
    ask("PATCH", "/api/v1/nodes/node-1", {"spec": {"unschedulable": None}}, headers=MERGE)
    until(lambda: ask.kube.runs("default/p"), "it runs")


def test_metadata_alone_has_a_form_for_one_and_one_for_lists(ask: Client) -> None:
    ask("POST", MAPS, config("one"))
    one, many = ({"Accept": f"application/json;as={sort};g=meta.k8s.io;v=v1,application/json"}
                 for sort in ("PartialObjectMetadata", "PartialObjectMetadataList"))
    assert "data" not in ask("GET", MAPS + "/one", headers=one)[1]
    assert ask("GET", MAPS, headers=many)[1]["kind"] == "PartialObjectMetadataList"
    for path, wrong in ((MAPS, one), (MAPS + "/one", many)):
        code, body = ask("GET", path, headers=wrong)
        assert (code, body["reason"]) == (406, "NotAcceptable")


def test_a_node_made_by_hand_takes_pods_when_its_simulator_has_seen_it(kube: KubeApi, ask: Client) -> None:
    kube.controllers.paused = True
    node = {"metadata": {"name": "by-hand", "annotations": {"kwok.x-k8s.io/node": "fake"}}}
    _, made = ask("POST", "/api/v1/nodes", node)
    assert made["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    kube.controllers.paused = False

    def ready() -> bool:
        live = ask("GET", "/api/v1/nodes/by-hand")[1]
        return not live["spec"]["taints"] and live["status"]["conditions"][0]["status"] == "True"

    until(ready, "it is ready")


def test_a_pod_of_a_job_is_held_until_it_is_counted(kube: KubeApi, ask: Client) -> None:
    kube.habits.job_s = None
    spec = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}
    ask("POST", "/apis/batch/v1/namespaces/default/jobs", {"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}})
    [pod] = until(lambda: [one for one in kube.things("Pod") if one["status"]["phase"] == "Running"], "it runs")
    assert pod["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    kube.end_pod("default", pod["metadata"]["name"], exit_code=0)
    until(lambda: "finalizers" not in kube.things("Pod")[0]["metadata"], "it is counted")


def test_claims_that_nobody_binds_hold_their_pods_back(kube: KubeApi, ask: Client) -> None:
    kube.habits.storage = False
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    ask("POST", "/api/v1/namespaces/default/persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": claim})
    ask("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
    until(lambda: "unbound" in str(kube.things("Pod")[0]["status"].get("conditions")), "it is told")


def test_a_port_of_the_nodes_is_given_once(ask: Client) -> None:
    def service(name: str, **port: int) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, **port}]}}

    path = "/api/v1/namespaces/default/services"
    code, first = ask("POST", path, service("one"))
    port = first["spec"]["ports"][0]["nodePort"]
    assert (code, port in range(30_000, 32_768)) == (201, True)
    code, body = ask("POST", path, service("two", nodePort=port))
    assert (code, body["details"]["causes"][0]["field"]) == (422, "spec.ports[0].nodePort")
    assert "provided port is already allocated" in body["message"]
    assert ask("PUT", path + "/one", first)[0] == 200
