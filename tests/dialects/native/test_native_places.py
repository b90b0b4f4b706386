"""Can a cloud be asked for what its kind can do, and is what it cannot refused early, with the reason?"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import settings as settings_module
from cloudsched.app import wsgi
from cloudsched.drivers import base, registry
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.drivers.sizes import InstanceType, Price
from cloudsched.services import keys
from cloudsched.services.caller import LOCAL_ADMIN

from .conftest import Api

SECRET = "s3cret-value"


@dataclass(frozen=True)
class Done:
    """What happened on a host."""

    host: str
    value: Any = None
    error: str = ""
    message: str = ""
    transient: bool = False
    seconds: float = 0.1
    failure: Exception | None = None

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(frozen=True)
class Ended:
    host: str
    code: int
    stdout: str
    stderr: str = ""
    seconds: float = 0.1
    truncated: bool = False


@dataclass(frozen=True)
class BatchJob:
    """One job of this engine."""

    command: tuple[str, ...]
    name: str = "job"
    env: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1


@dataclass(frozen=True)
class Selection:
    labels: str
    kinds: tuple[str, ...] = ("Pod",)


@dataclass(frozen=True)
class State:
    name: str
    state: str


class Plain:
    """A kind of place that boots machines, and no more."""

    kind = "Plain"
    capabilities = frozenset({base.BOOT})

    def __init__(self, place: Place) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def verify(self) -> list[Check]:
        return []

    def boot(self, wanted: Wanted) -> Machine:
        raise DriverError("never")

    def machines(self) -> list[Machine]:
        return []

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """There is nothing."""


class Able(Plain):
    """A place that can everything, and writes down what it was asked."""

    kind = "Able"
    capabilities = base.CAPABILITIES
    BatchJob, Selection = BatchJob, Selection

    def run_all(self, command: Any, *, hosts: Any, sudo: bool, timeout_s: float) -> list[Done]:
        if hosts == ["h9"]:
            raise DriverError("hosts: 'h9' is none of h1, h2", code=base.REQUEST)
        self.calls.append(("run", command, hosts, sudo, timeout_s))
        return [Done("h1", Ended("h1", 0, "out\n")), Done("h2", error="unreachable", message="h2: refused", failure=OSError())]

    def facts_all(self, *, timeout_s: float) -> list[Done]:
        return [Done("h1", State("h1", "up")), Done("h2", error="timeout", message="h2: too slow")]

    def ping_all(self, *, timeout_s: float) -> list[Done]:
        return [Done("h1", 0.25)]

    def nodes(self) -> list[State]:
        return [State("n1", "idle")]

    def drain(self, node: str, *, timeout_s: float = 300, force: bool = False) -> State:
        if node == "away":
            raise DriverError("nobody answers", code=base.ENDPOINT, transient=True)
        self.calls.append(("drain", node, timeout_s, force))
        return State(node, "drained")

    def resume(self, node: str) -> None:
        self.calls.append(("resume", node))

    def types(self) -> list[InstanceType]:
        return [InstanceType("m1", 1, 1024)]

    def prices(self) -> list[Price]:
        return [Price("m1", 0.5, "EUR")]

    def apply(self, manifests: Sequence[Any], *, dry_run: bool, force: bool, namespace: str | None) -> list[Any]:
        self.calls.append(("apply", len(manifests), dry_run, force, namespace))
        if not force:
            error = DriverError("spec.replicas is managed by 'other'")
            error.conflicts = [{"field": "spec.replicas", "manager": "other"}]  # type: ignore[attr-defined]
            raise error
        return [{"kind": one["kind"], "name": one["metadata"]["name"], "object": one, "diff": ""} for one in manifests]

    def delete(self, what: Any, *, wait: bool, timeout_s: float, namespace: str | None) -> list[State]:
        self.calls.append(("delete", what, wait, timeout_s, namespace))
        return [State("web", "gone")]

    def logs(self, pod: str, *, namespace: str, container: str, tail: int, previous: bool) -> Iterator[str]:
        return (f"line {number}" for number in range(tail))

    def submit(self, jobs: Sequence[BatchJob], *, key: str = "") -> list[str]:
        self.calls.append(("submit", tuple(jobs), key))
        return [f"7_{number}" for number, _ in enumerate(jobs)]

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        return {one: State("job", "running") for one in ids if one != "9"}

    def cancel(self, ids: Sequence[str]) -> None:
        self.calls.append(("cancel", tuple(ids)))


@pytest.fixture(autouse=True)
def made() -> Iterator[dict[str, Any]]:
    """The drivers by the name of their cloud."""
    found: dict[str, Any] = {}
    for kind in (Plain, Able):
        registry.register(kind.kind, lambda place, kind=kind: found.setdefault(place.name, kind(place)))  # type: ignore[misc]
    yield found
    for kind in (Plain, Able):
        registry._factories.pop(kind.kind)


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    api = make_api()
    for name, kind in (("plain", "Plain"), ("able", "Able")):
        answer = api.post("/clouds", json={"name": name, "kind": kind, "slots": 1})
        assert answer.status_code == 201, answer.text
    return api


CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/run", {"command": "true"}), ("GET", "/hosts", None), ("POST", "/ping", None), ("GET", "/nodes", None),
    ("POST", "/nodes/n1/cordon", None), ("POST", "/nodes/n1/drain", {}), ("GET", "/types", None), ("GET", "/prices", None),
    ("POST", "/apply", {"manifests": [{}]}), ("POST", "/delete", {"labels": "a=b"}), ("POST", "/batch", {"jobs": [{}]}),
    ("GET", "/batch?ids=1", None), ("POST", "/batch/cancel", {"ids": ["1"]}), ("GET", "/pods/ns/p/log", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=str)
def test_what_a_kind_cannot_is_refused_with_kind_and_capability(api: Api, method: str, path: str, body: Any) -> None:
    answer = api(method, f"/clouds/plain{path}", json=body) if body is not None else api(method, f"/clouds/plain{path}")
    assert answer.status_code == 409, answer.text
    assert answer.json["type"] == "urn:cloudsched:problem:unsupported"
    assert answer.json["cloud_kind"] == "Plain"
    assert answer.json["capability"] in base.CAPABILITIES
    assert answer.json["capabilities"] == ["boot"]
    assert "plain is a Plain cloud, which cannot" in answer.json["detail"]


@pytest.mark.parametrize(("path", "role"), [
    ("/run", "admin"), ("/hosts", "operator"), ("/nodes/n1/drain", "operator"), ("/apply", "admin"), ("/delete", "admin"),
    ("/batch", "admin"), ("/batch/cancel", "operator"), ("/pods/ns/p/log", "operator")])
def test_roles(api: Api, path: str, role: str) -> None:
    admin, below = (keys.create(name, given, LOCAL_ADMIN)["key"] for name, given in (
        ("a", "admin"), ("b", "viewer" if role == "operator" else "operator")))
    method = "GET" if path in ("/hosts", "/pods/ns/p/log") else "POST"
    body = {} if method == "GET" else {"json": {}}
    assert api(method, f"/clouds/able{path}", key=below, **body).status_code == 403
    assert api(method, f"/clouds/able{path}", key=admin, **body).status_code != 403


def test_capabilities(api: Api) -> None:
    assert api.get("/clouds/plain/capabilities").json == {"name": "plain", "kind": "Plain", "capabilities": ["boot"]}
    assert set(api.get("/clouds/able/capabilities").json["capabilities"]) == base.CAPABILITIES
    assert api.get("/clouds/nowhere/capabilities").status_code == 404


def test_run_answers_for_each_host_and_leaves_no_secret_behind(api: Api, made: dict[str, Any]) -> None:
    answer = api.post("/clouds/able/run", json={"command": ["deploy", "--password", SECRET], "sudo": True, "timeout_s": 5})
    assert answer.status_code == 200, answer.text
    assert made["able"].calls == [("run", ["deploy", "--password", SECRET], None, True, 5.0)]
    first, second = answer.json["items"]
    assert (first["ok"], first["code"], first["stdout"]) == (True, 0, "out\n")
    assert (second["ok"], second["error"], second["message"]) == (False, "unreachable", "h2: refused")
    assert answer.json["failed"] == 1
    events = [one for one in api.get("/events").json["items"] if one["kind"] == "cloud.run"]
    assert [one["actor"] for one in events] == ["local"]
    assert SECRET not in json.dumps(events)
    assert api.post("/clouds/able/run", json={"command": "x", "hosts": ["h9"]}).status_code == 400


@pytest.mark.parametrize("body", [
    {}, {"command": []}, {"command": " "}, {"command": [1]}, {"command": "x", "timeout_s": 601}, {"command": "x", "hosts": []},
    {"command": "x", "more": 1}])
def test_a_run_that_cannot_be_right_is_refused(api: Api, body: dict[str, Any], made: dict[str, Any]) -> None:
    assert api.post("/clouds/able/run", json=body).status_code == 400
    assert "able" not in made or made["able"].calls == []


def test_hosts_nodes_types_and_prices(api: Api, made: dict[str, Any]) -> None:
    hosts = api.get("/clouds/able/hosts").json
    assert [one["ok"] for one in hosts["items"]] == [True, False]
    assert hosts["items"][0]["facts"] == {"name": "h1", "state": "up"}
    assert api.post("/clouds/able/ping").json["items"][0]["ping_s"] == 0.25
    assert api.get("/clouds/able/nodes").json["items"] == [{"name": "n1", "state": "idle"}]
    assert api.get("/clouds/able/types").json["items"][0]["memory_mb"] == 1024
    assert api.get("/clouds/able/prices").json["items"][0]["per_hour"] == 0.5
    done = api.post("/clouds/able/nodes/n%2F1/drain", json={"timeout_s": 7}).json
    assert done == {"node": "n/1", "verb": "drain", "result": {"name": "n/1", "state": "drained"}}
    assert api.post("/clouds/able/nodes/n1/uncordon").status_code == 200  # it calls that resume
    assert made["able"].calls == [("drain", "n/1", 7.0, False), ("resume", "n1")]
    assert api.post("/clouds/able/nodes/n1/cordon").json["verb"] == "cordon"
    wrong = api.post("/clouds/able/nodes/n1/drain", json={"reason": "x"})
    assert (wrong.status_code, wrong.json["errors"][0]["field"]) == (400, "reason")
    assert api.post("/clouds/able/nodes/away/drain", json={}).status_code == 503


def test_manifests(api: Api, made: dict[str, Any]) -> None:
    text = "kind: Pod\nmetadata: {name: web}\n---\nkind: Secret\nmetadata: {name: s}\ndata: {a: " + SECRET + "}\n"
    refused = api.post("/clouds/able/apply", json={"manifests": text})
    assert (refused.status_code, refused.json["conflicts"][0]["manager"]) == (409, "other")
    done = api.post("/clouds/able/apply", json={"manifests": text, "force": True, "namespace": "ns"})
    assert [one["name"] for one in done.json["items"]] == ["web", "s"]
    assert SECRET not in done.text
    gone = api.post("/clouds/able/delete", json={"labels": "app=web", "kinds": ["Pod"], "timeout_s": 3})
    assert gone.json["items"] == [{"name": "web", "state": "gone"}]
    assert made["able"].calls[-1] == ("delete", Selection("app=web", ("Pod",)), True, 3.0, None)
    assert SECRET not in api.get("/events").text


@pytest.mark.parametrize("body", [
    {"manifests": 7}, {"manifests": []}, {"manifests": "a: [1"}, {"manifests": "a: &x 1\nb: *x"}, {"manifests": ["text"]}, {}])
def test_manifests_that_cannot_be_read_are_refused(api: Api, body: dict[str, Any]) -> None:
    for verb in ("apply", "delete"):
        answer = api.post(f"/clouds/able/{verb}", json=body)
        assert (answer.status_code, answer.json["errors"][0]["field"].partition("[")[0]) == (400, "manifests")


def test_batch_work(api: Api, made: dict[str, Any]) -> None:
    jobs = [{"command": ["a", "b"], "env": {"X": SECRET}}, {"command": ["c"], "cores": 2}]
    answer = api.post("/clouds/able/batch", json={"jobs": jobs, "key": "k"})
    assert (answer.status_code, answer.json) == (201, {"ids": ["7_0", "7_1"]})
    assert made["able"].calls[-1] == ("submit", (BatchJob(("a", "b"), env={"X": SECRET}), BatchJob(("c",), cores=2)), "k")
    assert api.get("/clouds/able/batch?ids=7_0,9").json["items"] == [{"id": "7_0", "name": "job", "state": "running"}]
    assert api.post("/clouds/able/batch/cancel", json={"ids": ["7_0"]}).status_code == 200
    assert made["able"].calls[-1] == ("cancel", ("7_0",))
    unknown = api.post("/clouds/able/batch", json={"jobs": [{"command": ["a"], "colour": 1}]})
    assert unknown.json["errors"][0]["field"] == "jobs[0].colour"
    assert api.post("/clouds/able/batch", json={"jobs": [{"command": ["a"], "cores": "x"}]}).status_code == 400
    assert SECRET not in api.get("/events").text


def test_a_pods_log_is_text(api: Api) -> None:
    answer = api.get("/clouds/able/pods/ns/p/log?tail=2")
    assert (answer.status_code, answer.text, answer.content_type) == (200, "line 0\nline 1\n", "text/plain; charset=utf-8")
    assert api.get("/clouds/able/pods/ns/p/log?tail=0").status_code == 400


def test_a_changed_cloud_gets_another_driver(api: Api, made: dict[str, Any]) -> None:
    api.get("/clouds/able/types")
    first = made.pop("able")
    api.get("/clouds/able/types")
    assert "able" not in made  # the driver is kept
    assert api("PATCH", "/clouds/able", json={"options": {"a": 1}}).status_code == 200
    api.get("/clouds/able/types")
    assert made["able"] is not first


# the agent as a file


def test_the_agent_is_fetched_without_a_key(make_api: Callable[..., Api]) -> None:
    app = make_api().app
    keys.create("a", "admin", LOCAL_ADMIN)
    client = Client(app)
    answer = client.get("/agent.pyz")
    assert (answer.status_code, answer.content_type) == (200, "application/octet-stream")
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.data).hexdigest()}"'
    assert "__main__.py" in zipfile.ZipFile(BytesIO(answer.data)).namelist()
    again = client.get("/agent.pyz", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.head("/agent.pyz").data == b""
    assert client.post("/agent.pyz").status_code == 405


def test_agents_may_knock_at_the_retire_cluster_port(make_api: Callable[..., Api], tmp_state: Any) -> None:
    make_api()
    settings = settings_module.load({"state": str(tmp_state)}, environ={})
    front, port = wsgi.make(settings), str(next(one.port for one in settings.http_listeners() if one.name == "retire_cluster"))
    client = Client(front)
    environ = {"SERVER_PORT": port, "REMOTE_ADDR": "127.0.0.1"}
    assert client.get("/agent.pyz", environ_overrides=environ).data[:2] == b"#!"
    joined = client.post("/api/v2/agent/join", json={"token": "cn_wrong"}, environ_overrides=environ)
    assert joined.content_type == "application/problem+json"
    assert client.get("/api/v1/health", environ_overrides=environ).content_type != "application/problem+json"
    elsewhere = {**environ, "SERVER_PORT": str(settings.listen.logkit)}
    assert client.get("/agent.pyz", environ_overrides=elsewhere).status_code == 404
