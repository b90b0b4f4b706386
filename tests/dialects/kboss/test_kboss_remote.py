"""Does a centre elsewhere do the same as one in this process? Every verb of the executor, both ways, over the executor's half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.pcapi import PcapiRefused
from cloudsched.errors import CloudschedError, Conflict, NotFound
from cloudsched.services.centre import centre_calls, centre_hosts, centres, executor
from cloudsched.services.centre.centre_calls import Local, Remote, Where
from cloudsched.services.centre.executor import Access

from .conftest import PCAPI, Api

ACCESS = Access("10.0.0.1", 2222, "root", "Pa55-w0rd-host", host_key="ssh-ed25519 AAAA")
WHERE = Where(ACCESS, kind="slurm")
FREE = NodeFree("n1", 4000, 8192, gpus={"A100-80G": 2}, labels={"zone": "a"})


class Wire:
    """What `Pcapi` does, without a network: the form goes to the application of this process."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def call(self, verb: str, params: Mapping[str, Any], *, read_timeout_s: float | None = None) -> Any:
        found = self.api.do(f"{PCAPI}/{verb}", **params)
        if not found["status"]:
            raise PcapiRefused(found["info"], found["data"])
        return found["data"]


@pytest.fixture(params=["local", "remote"])
def both(request: pytest.FixtureRequest, api: Api) -> centre_calls.Executor:
    api.language = "en"
    if request.param == "local":
        return Local(api.settings)
    return Remote(Wire(api))  # type: ignore[arg-type]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the executor of this process is asked at last."""
    found: list[Any] = []

    def note(name: str, answer: Any) -> None:
        def do(*facts: Any, **more: Any) -> Any:
            found.append((name, *facts, more))
            return answer

        monkeypatch.setattr(executor, name, do)

    note("nodes", [{"node_name": "n1", "node_internalip": "10.0.0.2"}])
    note("pods", [{"pod_name": "p"}])
    note("free_nodes", [FREE])
    for name in ("switch", "delete_node", "label"):
        note(name, {"node_name": "n1"})
    return found


def test_looking(both: centre_calls.Executor, asked: list[Any]) -> None:
    assert both.nodes(WHERE) == [{"node_name": "n1", "node_internalip": "10.0.0.2"}]
    assert both.pods(Where(kubeconfig="kind: Config", kind="kubernetes")) == [{"pod_name": "p"}]
    assert both.free_nodes(WHERE) == [FREE]
    assert asked[0][1] == WHERE and asked[1][1].kubeconfig == "kind: Config"


def test_switching_and_labels(both: centre_calls.Executor, asked: list[Any]) -> None:
    both.switch(WHERE, "n1", state="cordon", drain=True)
    both.delete_node(WHERE, "n1", force=False)
    both.label(WHERE, "n1", "a=b", "label")
    assert asked == [("switch", WHERE, "n1", {"state": "cordon", "drain": True}), ("delete_node", WHERE, "n1", {"force": False}),
                     ("label", WHERE, "n1", "a=b", "label", {})]


def test_installing(both: centre_calls.Executor, api: Api) -> None:
    def begin(reference: str) -> int:
        return both.new_cluster(ACCESS, kind="slurm", role="master", actor="ada", options={"node_name": "n1"},
                                reference=reference)

    first = begin("a")
    assert begin("a") == first and begin("b") == first + 1
    progress = both.progress(first)
    assert (progress.done, progress.ok) == (False, False) and progress.detail
    apart = both.take_apart(ACCESS, kind="slurm", role="worker", actor="ada", options={}, reference="c")
    assert both.progress(apart).done is False
    with pytest.raises((NotFound, PcapiRefused)):
        both.progress(999)
    with pytest.raises(CloudschedError, match="join_command"):
        both.new_worker(ACCESS, kind="slurm", role="worker", join_command="nonsense", actor="ada", options={}, reference="d")


def test_what_it_refuses(both: centre_calls.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Conflict("2 jobs run on n1")

    monkeypatch.setattr(executor, "delete_node", refuse)
    with pytest.raises(CloudschedError, match="2 jobs run on n1"):
        both.delete_node(WHERE, "n1", force=False)


def test_other_verbs(both: centre_calls.Executor) -> None:
    with pytest.raises(CloudschedError):
        both.call("yaml_apply_delete", {"action": "melt"})


def test_who_is_asked(api: Api) -> None:
    near = centres.find(api.centre())
    far = centres.find(api.centre(name="far", pcapi_url="http://centre.example.com:8088"))
    assert isinstance(centre_calls.executor_for(near, api.settings), Local)
    found = centre_calls.executor_for(far, api.settings)
    assert isinstance(found, Remote) and found.pcapi.url == "http://centre.example.com:8088"


def test_a_key_file_is_a_key(api: Api) -> None:
    centre = api.centre()
    pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----"
    host = centre_hosts.find_host(api.host(centre, adminpwd=pem, options='{"host_key": "ssh-ed25519 AAAA", "prefix": "/srv/a"}'))
    access = centre_calls.access_of(host, api.settings)
    assert (access.password, access.key, access.host_key) == ("", pem, "ssh-ed25519 AAAA")
    assert centre_calls.options_of(host) == {"prefix": "/srv/a"}
